// What the terminal can do.
#pragma once

#include <string>
#include <string_view>

namespace llmplan::cli {

enum class Output { out, err };           // stdout, stderr

bool is_terminal(Output);
bool has_color(Output);                   // a terminal, not TERM=dumb, and NO_COLOR is not set
int width(Output);                        // columns: the terminal's, else $COLUMNS, else 100

enum class Style { bold, dim, red, yellow, green };
std::string styled(Output, Style, std::string_view text);  // plain text where there is no colour

}  // namespace llmplan::cli
