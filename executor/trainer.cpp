#include "executor/trainer.h"
