#include "costmodel/profiles/profiles.h"
