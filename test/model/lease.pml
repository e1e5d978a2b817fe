/*
 * The lease protocol of daemon/lease, for Spin. Included by acquire.pml, renew.pml and chain.pml, which say how large the
 * world is; `-D` on the command line breaks one rule each (the mutants, listed in check.ts).
 *
 * How it is kept small, and why nothing is lost by it:
 * - One process, one guarded command per event. Every event is atomic, as a handler of the guard is.
 * - The network is the set of all that was ever sent. A message may be delivered at any time, any number of times, in any
 *   order, to whatever incarnation is there; or never. So loss, duplication, reordering and unbounded delay need no queue.
 *   Replies to an attempt that is over are dropped: no handler looks at them.
 * - Time is counted down, not up: a tick takes one from every timer that runs. There is no horizon: a run may take any
 *   number of ticks. Timers last DP, DA, DQ ticks; all hosts' clocks tick together (drift is the simulator's matter).
 * - A ballot is its rank among all ballots of the run, 1..K, chosen freely as long as it is above those of the same
 *   session. That covers every order which counters, hosts and random sessions can give, with at most K attempts.
 * - Votes are counted when the majority is there, not one by one: counting changes nothing that others see.
 * - Acceptors that are alike but for their number are one: they are sorted after each step (not in chain.pml, where voters
 *   differ). The first attempt is the first proposer's, who is first being a matter of name.
 *
 * Holder: `auth[p]` > 0 means that the workload of host p runs. It outlives the proposer's restart, as a workload does,
 * until its deadline, when the gate closes.
 */
#ifndef DP
#define DP 2 /* holder's authority, from before the first message */
#endif
#ifndef DA
#define DA DP /* acceptor's exclusion, from acceptance: here as tight as it may be */
#endif
#ifndef DQ
#define DQ DP /* silence after a restart that lost the volatile state */
#endif
#ifdef NO_QUARANTINE
#undef DQ
#define DQ 0
#endif
#ifdef SHORT_QUARANTINE
#undef DQ
#define DQ (DP - 1)
#endif
#ifndef ACCEPTOR_RESTARTS
#define ACCEPTOR_RESTARTS NA /* in all; each at most once */
#endif
#ifndef PROPOSER_RESTARTS
#define PROPOSER_RESTARTS 2 /* in all; each at most once */
#endif

/* Sessions are numbers: 1 and 2 of host 0, 3 and 4 of host 1. 0: nobody. */
#define SESSION(p) (2 * (p) + inc[p] + 1)
#define HOST(s) (((s) - 1) / 2)
#ifdef OWNER_BY_HOST
#define SAME(s, t) ((s) != 0 && (t) != 0 && HOST(s) == HOST(t))
#else
#define SAME(s, t) ((s) == (t))
#endif

/* ---- attempts and their messages, by ballot */
byte own[K + 1]; /* session whose attempt it is; 0: not begun */
byte acc[K + 1]; /* epoch of the Accept that was sent; 0: none */
#ifdef RENEW
byte rel[5]; /* by session: highest ballot of a Release that was sent */
#endif

/* ---- acceptors */
byte prom[NA]; /* promised ballot */
byte rec[NA]; /* ballot of the live record; 0: none */
byte tim[NA]; /* ticks until the record expires */
byte maxE[NA]; /* durable: highest epoch accepted, and whose */
byte maxO[NA];
byte quar[NA]; /* ticks of silence left */
byte arst[NA]; /* restarts so far */
byte reply[2 * NA]; /* to the present attempt of each proposer: promised with epoch e: e + 1; accepted: 1 */
#define REPLY(p, i) reply[(p) * NA + (i)]

/* ---- proposers */
#define IDLE 0
#define PREPARING 1
#define ACCEPTING 2
#define RENEWING 3
byte ph[2];
byte cur[2]; /* present attempt's ballot */
byte td[2]; /* ticks left of what this attempt may give */
byte inc[2];
byte auth[2]; /* ticks for which the workload still runs */
byte hold[2]; /* auth is this session's, not one before a restart */
byte aep[2]; /* epoch of the held lease */

byte newest; /* epoch of the latest activation: for the assertion only */

hidden byte e_;
hidden byte n_;
hidden int k0_;
hidden int k1_;

#ifdef CHAIN
/* ---- configurations: at most STEPS + 1 links */
byte mask[STEPS + 1]; /* voters, one bit each */
byte links; /* number of the newest that was chosen */
byte floorE[STEPS + 1];
byte floorO[STEPS + 1];
byte cfg[NA]; /* durable: which one this acceptor is in */
byte since[NA]; /* ticks until it may vote on the next one */
byte voted; /* for the next link */
byte voteE; /* highest epoch among these votes, and whose */
byte voteO;
byte bcfg[K + 1]; /* under which configuration an attempt runs */
byte pcfg[2];
#define IN(i, c) ((mask[c] >> (i)) & 1)
#ifdef NO_CONFIG_CHECK
#define SERVES(i, b) IN(i, bcfg[b])
#else
#define SERVES(i, b) (cfg[i] == bcfg[b] && IN(i, bcfg[b]))
#endif
#define VOTERS(p) mask[bcfg[cur[p]]]
#define M DP
#else
#define SERVES(i, b) true
#define VOTERS(p) ((1 << NA) - 1)
#endif

#define BITS(m) (((m) & 1) + (((m) >> 1) & 1) + (((m) >> 2) & 1) + (((m) >> 3) & 1))
#ifdef SCALAR_QUORUM
/* Replies are counted, not voters: one voter's, delivered twice, are a majority of three. */
#define MAJORITY(p) (1)
#else
#define MAJORITY(p) (BITS(VOTERS(p)) / 2 + 1)
#endif
#ifdef PAIR
#define RENEWALS(p) (BITS(VOTERS(p)) - BITS(VOTERS(p)) / 2) /* n - majority + 1 */
#else
#define RENEWALS(p) MAJORITY(p)
#endif

/* Ballots above b are not of this session: its ballots rise. */
#if K == 2
#define RISES(p, b) (own[2] != SESSION(p) || b == 2)
#define ANY_ATTEMPT (own[1] + own[2] > 0)
#endif
#if K == 3
#define RISES(p, b) ((own[2] != SESSION(p) || b >= 2) && (own[3] != SESSION(p) || b >= 3))
#define ANY_ATTEMPT (own[1] + own[2] + own[3] > 0)
#endif
#if K == 4
#define RISES(p, b) \
  ((own[2] != SESSION(p) || b >= 2) && (own[3] != SESSION(p) || b >= 3) && (own[4] != SESSION(p) || b >= 4))
#define ANY_ATTEMPT (own[1] + own[2] + own[3] + own[4] > 0)
#endif
#if K == 5
#define RISES(p, b) \
  ((own[2] != SESSION(p) || b >= 2) && (own[3] != SESSION(p) || b >= 3) && (own[4] != SESSION(p) || b >= 4) && \
   (own[5] != SESSION(p) || b >= 5))
#define ANY_ATTEMPT (own[1] + own[2] + own[3] + own[4] + own[5] > 0)
#endif

inline clearReplies(p) {
  n_ = 0;
  do
  :: n_ < NA -> REPLY(p, n_) = 0; n_++
  :: else -> break
  od
}

inline over(p) {
  ph[p] = IDLE;
  cur[p] = 0;
  td[p] = 0;
  clearReplies(p)
}

/* P1: new ballot, and the timer starts before the first message. */
inline start(p, b) {
  hold[p] == 0 && own[b] == 0 && RISES(p, b) && (p == 0 || ANY_ATTEMPT) ->
  clearReplies(p);
  own[b] = SESSION(p);
  cur[p] = b;
  ph[p] = PREPARING;
#ifdef CHAIN
  bcfg[b] = pcfg[p];
#endif
  td[p] = DP
}

#define NOT_ANOTHERS(i, b) (rec[i] == 0 || SAME(own[rec[i]], own[b]))
#ifdef PROMISE_WHEN_BUSY
#define MAY_PROMISE(i, b) true
#else
#define MAY_PROMISE(i, b) NOT_ANOTHERS(i, b)
#endif
#ifdef OVERWRITE
#define MAY_RECORD(i, b) true
#else
#define MAY_RECORD(i, b) NOT_ANOTHERS(i, b)
#endif
#ifdef NO_EPOCH_RULE
#define EPOCH_FITS(i, b) true
#else
#define EPOCH_FITS(i, b) (acc[b] > maxE[i] || (acc[b] == maxE[i] && SAME(maxO[i], own[b])))
#endif
#ifdef OWNER_ONLY_RELEASE
#define RELEASES(i, s) (own[rec[i]] == s)
#else
#ifdef RELEASE_BY_HOST
#define RELEASES(i, s) (HOST(own[rec[i]]) == HOST(s) && rec[i] <= rel[s])
#else
#define RELEASES(i, s) (own[rec[i]] == s && rec[i] <= rel[s])
#endif
#endif
#ifdef NO_SPACING
#define SPACED(i) true
#else
#define SPACED(i) (since[i] == 0)
#endif
#ifdef TWO_AT_ONCE
#define STEP(next) (next != mask[links])
#endif
#ifdef PATH1
#define STEP(next) (next == (links == 0 -> PATH1 : PATH2)) /* only these */
#endif
#ifndef STEP
#define STEP(next) (BITS(next ^ mask[links]) == 1)
#endif
#define PROMISES2(p, m) ((!(m & 1) || REPLY(p, 0)) && (!(m & 2) || REPLY(p, 1)))
#if NA == 2
#define PROMISES(p, m) PROMISES2(p, m)
#define TIMERS (tim[0] + tim[1] + quar[0] + quar[1])
#endif
#if NA == 3
#define PROMISES(p, m) (PROMISES2(p, m) && (!(m & 4) || REPLY(p, 2)))
#define TIMERS (tim[0] + tim[1] + tim[2] + quar[0] + quar[1] + quar[2])
#endif
#if NA == 4
#define PROMISES(p, m) (PROMISES2(p, m) && (!(m & 4) || REPLY(p, 2)) && (!(m & 8) || REPLY(p, 3)))
#define TIMERS (tim[0] + tim[1] + tim[2] + tim[3] + quar[0] + quar[1] + quar[2] + quar[3])
#endif
#ifdef CHAIN
#if NA == 2
#define SPACINGS (since[0] + since[1])
#endif
#if NA == 3
#define SPACINGS (since[0] + since[1] + since[2])
#endif
#if NA == 4
#define SPACINGS (since[0] + since[1] + since[2] + since[3])
#endif
#else
#define SPACINGS 0
#endif

/* 2.6, 1: no promise while somebody else's lease is live. */
inline prepare(i, p) {
  ph[p] == PREPARING && quar[i] == 0 && SERVES(i, cur[p]) && cur[p] >= prom[i] && MAY_PROMISE(i, cur[p]) ->
  prom[i] = cur[p];
  if
  :: REPLY(p, i) < maxE[i] + 1 -> REPLY(p, i) = maxE[i] + 1
  :: else -> skip
  fi
}

/* P3, with the promises of exactly the voters in m. */
inline promised(p, m) {
  ph[p] == PREPARING && (m & VOTERS(p)) == m && BITS(m) == MAJORITY(p) &&
    PROMISES(p, m) ->
  e_ = 1;
  n_ = 0;
  do
  :: n_ < NA && ((m >> n_) & 1) && REPLY(p, n_) > e_ -> e_ = REPLY(p, n_); n_++
  :: n_ < NA && !(((m >> n_) & 1) && REPLY(p, n_) > e_) -> n_++
  :: n_ == NA -> break
  od;
  clearReplies(p);
  ph[p] = ACCEPTING;
#ifdef LATE_AT_QUORUM
  td[p] = DP;
#endif
  acc[cur[p]] = e_ /* replies carry the epoch plus one */
}

/* 2.6, 2: the grant. */
inline accept(i, b) {
  acc[b] > 0 && quar[i] == 0 && SERVES(i, b) && b >= prom[i] && MAY_RECORD(i, b) && EPOCH_FITS(i, b) ->
  prom[i] = b;
  rec[i] = b;
  tim[i] = DA;
  if
  :: acc[b] > maxE[i] -> maxE[i] = acc[b]; maxO[i] = own[b]
  :: else -> skip
  fi;
  if
  :: cur[0] == b && ph[0] >= ACCEPTING -> REPLY(0, i) = 1
  :: cur[1] == b && ph[1] >= ACCEPTING -> REPLY(1, i) = 1
  :: else -> skip
  fi
}

#define ACCEPTS2(p) ((REPLY(p, 0) > 0) + (REPLY(p, 1) > 0))
#if NA == 2
#define ACCEPTS(p) ACCEPTS2(p)
#endif
#if NA == 3
#define ACCEPTS(p) (ACCEPTS2(p) + (REPLY(p, 2) > 0))
#endif
#if NA == 4
#define ACCEPTS(p) (ACCEPTS2(p) + (REPLY(p, 2) > 0) + (REPLY(p, 3) > 0))
#endif

/* P4: the role becomes active. */
inline activate(p) {
  ph[p] == ACCEPTING && ACCEPTS(p) >= MAJORITY(p) ->
#ifdef LATE_TIMER
  auth[p] = DP;
#else
  auth[p] = td[p];
#endif
  hold[p] = 1;
  aep[p] = acc[cur[p]];
#ifndef NO_EPOCH_CHECK
  assert(acc[cur[p]] > newest); /* epochs rise */
  newest = acc[cur[p]];
#endif
#ifdef REACH
  assert(newest < REACH); /* not a mutant: shows that so many changes of owner do happen */
#endif
  over(p);
  assert(!(auth[0] > 0 && auth[1] > 0)) /* one holder */
}

#ifdef RENEW
/* 2.8: one round trip, a higher ballot, the same epoch; the timer starts before the message. */
inline renew(p, b) {
  hold[p] == 1 && own[b] == 0 && RISES(p, b) ->
  clearReplies(p);
  own[b] = SESSION(p);
  acc[b] = aep[p];
#ifdef CHAIN
  bcfg[b] = pcfg[p];
#endif
  cur[p] = b;
  ph[p] = RENEWING;
  td[p] = DP
}

inline renewed(p) {
  ph[p] == RENEWING && ACCEPTS(p) >= RENEWALS(p) ->
  assert(auth[p] > 0); /* an epoch names one unbroken activation */
#ifdef LATE_TIMER
  auth[p] = DP;
#else
  auth[p] = td[p];
#endif
#ifdef RENEW_AFTER_EXPIRY
  hold[p] = 1;
#endif
  over(p);
  assert(!(auth[0] > 0 && auth[1] > 0)) /* one holder */
}

/* After the workload was verified stopped. The latest ballot of the session: a renewal may be on its way. */
inline release(p) {
  hold[p] == 1 ->
  auth[p] = 0;
  hold[p] = 0;
  aep[p] = 0;
  n_ = K;
  do
  :: own[n_] != SESSION(p) -> n_--
  :: else -> break
  od;
  rel[SESSION(p)] = n_;
  over(p)
}

/* 2.6, 3 */
inline released(i, s) {
  rel[s] > 0 && quar[i] == 0 && rec[i] > 0 && RELEASES(i, s) ->
  rec[i] = 0;
  tim[i] = 0
}
#endif

#if NA == 2
#define RESTARTS (arst[0] + arst[1])
#endif
#if NA == 3
#define RESTARTS (arst[0] + arst[1] + arst[2])
#endif
#if NA == 4
#define RESTARTS (arst[0] + arst[1] + arst[2] + arst[3])
#endif

inline restartAcceptor(i) {
  arst[i] == 0 && RESTARTS < ACCEPTOR_RESTARTS ->
  arst[i] = 1;
  prom[i] = 0;
  rec[i] = 0;
  tim[i] = 0;
#ifdef VOLATILE_EPOCH
  maxE[i] = 0;
  maxO[i] = 0;
#endif
#if defined(CHAIN) && !defined(FORGET_SPACING)
  since[i] = M;
#endif
  quar[i] = DQ
}

inline restartProposer(p) {
  inc[p] == 0 && inc[0] + inc[1] < PROPOSER_RESTARTS && (own[1] == SESSION(p) || !RISES(p, 1)) ->
  over(p);
  hold[p] = 0;
  aep[p] = 0;
#ifdef CHAIN
  pcfg[p] = 0; /* whatever it knew; it may learn again */
#endif
  inc[p] = inc[p] + 1
}

#define LESS1(x) x = (x > 0 -> x - 1 : 0)

inline expire(p) {
  LESS1(auth[p]);
  if
  :: auth[p] == 0 -> hold[p] = 0
#ifndef RENEW_AFTER_EXPIRY
    ; aep[p] = 0
#endif
  :: else -> skip
  fi;
  if
  :: ph[p] != IDLE ->
#ifdef LATE_TIMER
    skip
#else
#ifdef LATE_AT_QUORUM
    if
    :: ph[p] != PREPARING -> LESS1(td[p])
    :: else -> skip
    fi
#else
    LESS1(td[p])
#endif
#endif
  :: else -> skip
  fi;
  if
  :: ph[p] != IDLE && td[p] == 0 -> over(p)
#ifndef RENEW_AFTER_EXPIRY
  :: ph[p] == RENEWING && td[p] > 0 && auth[p] == 0 -> over(p) /* only while the old authority lives */
#endif
  :: else -> skip
  fi
}

inline tick() {
  auth[0] + auth[1] + td[0] + td[1] + TIMERS + SPACINGS > 0 ->
  expire(0);
  expire(1);
  n_ = 0;
  do
  :: n_ < NA ->
    LESS1(tim[n_]);
    rec[n_] = (tim[n_] == 0 -> 0 : rec[n_]);
    LESS1(quar[n_]);
#ifdef CHAIN
    LESS1(since[n_]);
#endif
    n_++
  :: else -> break
  od
}

#ifdef CHAIN
inline adopt(i, c) {
  cfg[i] < c && c <= links ->
  cfg[i] = c;
  since[i] = M;
  if
#ifndef NO_FLOOR
  :: floorE[c] > maxE[i] -> maxE[i] = floorE[c]; maxO[i] = floorO[c]
#endif
  :: else -> skip
  fi
}

inline learn(p) {
  pcfg[p] < links && ph[p] == IDLE -> pcfg[p] = links
}

/* R2, R4. The vote that makes the majority chooses, with `next` as the voters of the next link (R1: one more or one less). */
inline vote(i, next) {
  links < STEPS && cfg[i] == links && IN(i, links) && quar[i] == 0 && !((voted >> i) & 1) && SPACED(i) && STEP(next) ->
  if
  :: maxE[i] > voteE -> voteE = maxE[i]; voteO = maxO[i]
  :: else -> skip
  fi;
  voted = voted | (1 << i);
  if
  :: BITS(voted) >= BITS(mask[links]) / 2 + 1 ->
    links++;
    mask[links] = next;
    floorE[links] = voteE;
    floorO[links] = voteO;
    voted = 0;
    voteE = 0;
    voteO = 0
  :: else -> skip
  fi
}
#endif

/* ---- symmetry of acceptors */
#ifndef CHAIN
#define KEY(i) \
  ((((((((prom[i] * 8 + rec[i]) * 4 + tim[i]) * 8 + maxE[i]) * 8 + maxO[i]) * 4 + quar[i]) * 2 + arst[i]) * 8 + REPLY(0, i)) * 8 + \
   REPLY(1, i))
#define SWAP(x, i, j) n_ = x[i]; x[i] = x[j]; x[j] = n_

inline order(i, j) {
  k0_ = KEY(i);
  k1_ = KEY(j);
  if
  :: k0_ > k1_ ->
    SWAP(prom, i, j);
    SWAP(rec, i, j);
    SWAP(tim, i, j);
    SWAP(maxE, i, j);
    SWAP(maxO, i, j);
    SWAP(quar, i, j);
    SWAP(arst, i, j);
    SWAP(reply, i, j);
    SWAP(reply, NA + i, NA + j)
  :: else -> skip
  fi
}
#endif

inline normalise() {
  n_ = 0;
#if !defined(CHAIN) && !defined(UNSORTED)
  order(0, 1);
#if NA > 2
  order(1, 2);
  order(0, 1);
#endif
#endif
  e_ = 0;
  n_ = 0;
  k0_ = 0;
  k1_ = 0
}

/* ---- every event, for every voter and ballot */
#if NA == 2
#define ACCEPTORS(X) X(0) X(1)
#define SUBSETS(X) X(1) X(2) X(3)
#endif
#if NA == 3
#define ACCEPTORS(X) X(0) X(1) X(2)
#define SUBSETS(X) X(1) X(2) X(3) X(4) X(5) X(6) X(7)
#endif
#if NA == 4
#define ACCEPTORS(X) X(0) X(1) X(2) X(3)
#define SUBSETS(X) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14) X(15)
#endif
#if K == 2
#define BALLOTS(X) X(1) X(2)
#define GRANTS(i) :: accept(i, 1) :: accept(i, 2)
#endif
#if K == 3
#define BALLOTS(X) X(1) X(2) X(3)
#define GRANTS(i) :: accept(i, 1) :: accept(i, 2) :: accept(i, 3)
#endif
#if K == 4
#define BALLOTS(X) X(1) X(2) X(3) X(4)
#define GRANTS(i) :: accept(i, 1) :: accept(i, 2) :: accept(i, 3) :: accept(i, 4)
#endif
#if K == 5
#define BALLOTS(X) X(1) X(2) X(3) X(4) X(5)
#define GRANTS(i) :: accept(i, 1) :: accept(i, 2) :: accept(i, 3) :: accept(i, 4) :: accept(i, 5)
#endif

#define START(b) :: start(0, b) :: start(1, b)
#define PREPARE(i) :: prepare(i, 0) :: prepare(i, 1)
#define PROMISED(m) :: promised(0, m) :: promised(1, m)
#define RESTART(i) :: restartAcceptor(i)
#define RENEWAL(b) :: renew(0, b) :: renew(1, b)
#define RELEASED(i) :: released(i, 1) :: released(i, 2) :: released(i, 3) :: released(i, 4)
#define ADOPT(i) :: adopt(i, 1) :: adopt(i, 2)
#define VOTE(m) :: vote(0, m) :: vote(1, m)
#define VOTE2(m) :: vote(2, m)
#define VOTE3(m) :: vote(3, m)

init {
#ifdef CHAIN
  d_step {
    mask[0] = FIRST
  };
#endif
  do
  :: atomic {
      if
      BALLOTS(START)
      ACCEPTORS(PREPARE)
      SUBSETS(PROMISED)
      ACCEPTORS(GRANTS)
      :: activate(0)
      :: activate(1)
#ifdef RENEW
      BALLOTS(RENEWAL)
      :: renewed(0)
      :: renewed(1)
#endif
#ifdef RELEASE
      :: release(0)
      :: release(1)
      ACCEPTORS(RELEASED)
#endif
#ifdef CHAIN
      ACCEPTORS(ADOPT)
      :: learn(0)
      :: learn(1)
      SUBSETS(VOTE)
#if NA > 2
      SUBSETS(VOTE2)
#endif
#if NA > 3
      SUBSETS(VOTE3)
#endif
#endif
      ACCEPTORS(RESTART)
      :: restartProposer(0)
      :: restartProposer(1)
      :: tick()
      fi;
      normalise()
    }
  od
}
