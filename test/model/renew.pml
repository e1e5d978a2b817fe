/* Acquisition, one-round renewal and release. */
#ifdef PAIR
#define NA 2
#else
#define NA 3
#endif
#ifndef K
#define K 4
#endif
#define RENEW
#define RELEASE
#include "lease.pml"
