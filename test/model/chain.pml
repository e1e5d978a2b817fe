/* Leases acquired while the voters change, one step at a time. FIRST: mask of the first link's voters. */
#define CHAIN
#ifndef NA
#define NA 3
#endif
#ifndef K
#define K 3
#endif
#ifndef STEPS
#define STEPS 1
#endif
#ifndef FIRST
#define FIRST 3
#endif
#ifndef ACCEPTOR_RESTARTS
#define ACCEPTOR_RESTARTS 1
#endif
#ifndef PROPOSER_RESTARTS
#define PROPOSER_RESTARTS 0
#endif
#include "lease.pml"
