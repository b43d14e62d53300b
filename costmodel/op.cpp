#include "costmodel/op.h"
