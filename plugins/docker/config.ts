/** Settings of the docker plugin. Everything has a default; durations are milliseconds. */

export interface DockerConfig {
  /** As in DOCKER_HOST, e.g. 'unix:///run/docker.sock'. Null: DOCKER_HOST, else /var/run/docker.sock. */
  readonly endpoint: string | null;
  /** Candidates for the bridge network, in order of preference, each a /22. Empty: our own list. */
  readonly subnets: readonly string[];
  /** Limit of one ordinary engine call (list, inspect, create). */
  readonly callTimeoutMs: number;
  /** Limit of starting one container. */
  readonly startTimeoutMs: number;
  /** A pull that has moved no byte for this long is given up. */
  readonly pullIdleTimeoutMs: number;
  /** Whole look at the engine, besides its events. */
  readonly lookIntervalMs: number;
  /** Engine is asked whether it lives. */
  readonly pingIntervalMs: number;
  readonly pingTimeoutMs: number;
  /** `reconcile` returns after this at the latest; slow pulls and stops go on and ask for another reconcile. */
  readonly reconcileWaitMs: number;
  /** An own image that nothing uses is kept this long. */
  readonly imageGraceMs: number;
}

export const defaultDockerConfig: DockerConfig = {
  endpoint: null,
  subnets: [],
  callTimeoutMs: 15_000,
  startTimeoutMs: 60_000,
  pullIdleTimeoutMs: 120_000,
  lookIntervalMs: 30_000,
  pingIntervalMs: 5_000,
  pingTimeoutMs: 4_000,
  reconcileWaitMs: 3_000,
  imageGraceMs: 600_000,
};

/** Pure. Throws an Error that names the field. */
export function parseDockerConfig(raw: unknown): DockerConfig {
  if (raw === undefined || raw === null) return defaultDockerConfig;
  if (typeof raw !== 'object' || Array.isArray(raw))
    throw new Error('configuration must be an object');
  const config: Record<string, unknown> = { ...defaultDockerConfig };
  for (const [field, value] of Object.entries(raw)) {
    if (!Object.hasOwn(defaultDockerConfig, field)) throw new Error(`${field}: unknown field`);
    config[field] = checked(field, value);
  }
  return config as unknown as DockerConfig;
}

function checked(field: string, value: unknown): unknown {
  if (field === 'endpoint') {
    if (value === null || (typeof value === 'string' && /^(unix|tcp|http|https):\/\//.test(value)))
      return value;
    throw new Error('endpoint: must be unix://PATH or tcp://HOST:PORT');
  }
  if (field === 'subnets') {
    if (
      Array.isArray(value) &&
      value.every((item) => typeof item === 'string' && /^\d+\.\d+\.\d+\.\d+\/22$/.test(item))
    )
      return value;
    throw new Error('subnets: must be a list of IPv4 networks of length /22');
  }
  if (typeof value === 'number' && Number.isInteger(value) && value > 0) return value;
  throw new Error(`${field}: must be a whole number of milliseconds above 0`);
}
