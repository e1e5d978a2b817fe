/* Three acceptors, two proposers, one restart each: acquisition alone. */
#define NA 3
#ifndef K
#define K 4
#endif
#include "lease.pml"
