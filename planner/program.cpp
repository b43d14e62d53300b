#include "planner/program.h"
