// Numbers as people read them. Memory in powers of two, rates in powers of ten.
#pragma once

#include <cstdint>
#include <string>

#include "costmodel/units.h"

namespace llmplan::cli {

std::string grouped(std::int64_t);           // 1,048,576
std::string short_count(double);             // 8.030 B, 1.05 M, 812
std::string short_rate(double);              // 59.6k, 6,140
std::string bytes_text(Bytes);               // 64.0 GiB, 612 MiB, 96 B
std::string seconds_text(Seconds);           // 20.9 s, 652 ms, 4.1 us
std::string duration_text(Seconds);          // 2 m 14 s, 3 h 05 m
std::string clock_text(Seconds);             // 00:53, 1:02:05
std::string flops_text(double);              // 57.9 GFLOP
std::string percent_text(double fraction);   // +2.3 %

}  // namespace llmplan::cli
