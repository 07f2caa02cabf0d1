#pragma once

// Every optimizer and every learning-rate schedule.
#include "lockstep/optim/adagrad.h"
#include "lockstep/optim/adam.h"
#include "lockstep/optim/clip.h"
#include "lockstep/optim/cosine.h"
#include "lockstep/optim/decay.h"
#include "lockstep/optim/grad_scaler.h"
#include "lockstep/optim/loss_scale.h"
#include "lockstep/optim/one_cycle.h"
#include "lockstep/optim/reduce_on_plateau.h"
#include "lockstep/optim/rmsprop.h"
#include "lockstep/optim/sgd.h"
