#pragma once

// Every optimizer.
#include "lockstep/optim/adagrad.h"
#include "lockstep/optim/adam.h"
#include "lockstep/optim/clip.h"
#include "lockstep/optim/rmsprop.h"
#include "lockstep/optim/sgd.h"
