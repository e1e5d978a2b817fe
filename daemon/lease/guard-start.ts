/**
 * How a guard is started, and where the files are that it shares with the daemon. The daemon makes key and certificate
 * before it starts the guard; everything else is the guard's.
 */

/** Default of `--lease-listen`. */
export const leasePortDefault = 7441;

export interface GuardStart {
  /** `<state>/lease`: what survives a reboot. */
  readonly stateDir: string;
  /** `<run>/guard`: what must not. */
  readonly runDir: string;
  /** 'ADDRESS:PORT'; port 0: any, said in the `hello` on the socket. */
  readonly listen: string;
}

/** Arguments of the guard's program. The environment's TRELLIS_BOOT_ID_PATH says where to read the boot id (tests). */
export function guardArguments(start: GuardStart): string[] {
  return ['--state', start.stateDir, '--run', start.runDir, '--listen', start.listen];
}

/**
 * What keeps an idle guard small: a small young generation, a heap that is collected before it has doubled, one helper
 * thread, and one of two optimising compilers: a guard waits, and its time goes to the kernel. Wherever one is started:
 * `bootstrap/trellis.sh` and `trellis.mjs` repeat them.
 */
export const guardNodeFlags = [
  '--max-semi-space-size=1',
  '--heap-growing-percent=100',
  '--v8-pool-size=1',
  '--no-parallel-scavenge',
  '--no-maglev',
  '--max-lazy',
] as const;

/** Of the C library: few arenas, and what is free at the end of one is given back. */
export const guardMallocSettings = {
  MALLOC_ARENA_MAX: '2',
  MALLOC_TRIM_THRESHOLD_: '131072',
} as const;

/** Exit status of a guard that found another in its place: whoever started it has nothing to do. */
export const lockedStatus = 75;

/** Names in `stateDir`. */
export const guardStateFiles = {
  /** 64 hex digits and a line end: the seed of the guard's Ed25519 key. 0600. */
  key: 'key',
  /** A `LeaseCertificate` as JSON. */
  certificate: 'certificate.json',
} as const;

/** Names in `runDir`. */
export const guardRunFiles = {
  socket: 'guard.sock',
  pid: 'guard.pid',
  /** Process id of the shell that starts it again, see `guard/keeper.ts`; may be of one that is gone. */
  keeper: 'keeper.pid',
  log: 'guard.log',
  /** Holds one directory per gate, `<gate>/{epoch,lease.json}`, that its containers see as /run/trellis/lease. */
  leases: 'lease',
} as const;
