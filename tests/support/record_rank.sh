#!/bin/bash
# record_rank.sh <program and its arguments...>
#
# Becomes the program, but writes down first which process that is and to which Open MPI job it
# belongs (-1: none): jobs.sh finds what it leaves behind by that.
echo "$$ ${PMIX_NAMESPACE:--1}" >> "$LOCKSTEP_TEST_JOB/ranks"
exec "$@"
