/** From a desired instance to what the engine is asked to create. Pure. */
import type { ContainerCreateOptions } from 'dockerode';
import type { DesiredInstance, DesiredView } from '../api.ts';
import { label } from './labels.ts';

export interface Place {
  readonly view: Pick<DesiredView, 'clusterId' | 'hostId' | 'env' | 'advertise'>;
  readonly network: string;
  /** Fixed address of this instance. */
  readonly address: string;
  readonly hostsFile: string;
  readonly imageId: string;
  /** Of exclusive instances: the gate as the engine's cgroup driver spells it; null: wherever the engine puts containers. */
  readonly cgroupParent: string | null;
}

/** Where the lease directory is seen inside. */
const leaseTarget = '/run/trellis/lease';

/** Bounded logs: at most this much of a container's output is kept by the engine. */
const logFileSize = '10m';
const logFiles = '3';
const hostnameCharsMax = 63;
/** Docker refuses less. */
const memoryBytesMin = 6 << 20;

/** Label `trellis.bind`: what must be made anew when this host's address or network changes. */
export function bindOf(
  instance: DesiredInstance,
  { address, advertise }: { address: string; advertise: string },
): string {
  const ports = published(instance, advertise).map(
    ({ key, hostIp, hostPort }) => `${hostIp}:${hostPort}>${key}`,
  );
  return [address, ...ports.toSorted()].join(' ');
}

export interface PublishedPort {
  /** As the engine writes it, e.g. '80/tcp'. */
  readonly key: string;
  readonly hostIp: string;
  readonly hostPort: number;
}

/** Only ports with an explicit host port; everything else is reached by its number. */
export function published(instance: DesiredInstance, advertise: string): PublishedPort[] {
  return instance.ports.flatMap((port) =>
    port.host === undefined
      ? []
      : [
          {
            key: `${port.container}/${port.protocol}`,
            hostIp: port.expose === 'public' ? '0.0.0.0' : advertise,
            hostPort: port.host,
          },
        ],
  );
}

export function createOptions(instance: DesiredInstance, place: Place): ContainerCreateOptions {
  const { view } = place;
  const ports = published(instance, view.advertise);
  const bindings: Record<string, { HostIp: string; HostPort: string }[]> = {};
  for (const { key, hostIp, hostPort } of ports)
    (bindings[key] ??= []).push({ HostIp: hostIp, HostPort: String(hostPort) });
  return {
    name: instance.containerName,
    Image: place.imageId,
    Hostname: hostnameOf(instance.instance),
    ...(instance.command.length === 0 ? {} : { Cmd: [...instance.command] }),
    Env: Object.entries(instance.env).map(([key, value]) => `${key}=${value}`),
    Labels: {
      [label.cluster]: view.clusterId,
      [label.host]: view.hostId,
      [label.env]: view.env,
      [label.service]: instance.service,
      [label.serviceId]: instance.serviceId,
      [label.instance]: instance.instance,
      [label.spec]: instance.spec,
      [label.bind]: bindOf(instance, { address: place.address, advertise: view.advertise }),
      ...(instance.exclusive === undefined ? {} : { [label.lease]: instance.exclusive.lease }),
    },
    ExposedPorts: Object.fromEntries(
      instance.ports.map((port) => [`${port.container}/${port.protocol}`, {}]),
    ),
    StopTimeout: Math.ceil(instance.stopGraceMs / 1000),
    ...healthcheck(instance),
    HostConfig: {
      NetworkMode: place.network,
      PortBindings: bindings,
      RestartPolicy: { Name: instance.restart },
      LogConfig: { Type: 'json-file', Config: { 'max-size': logFileSize, 'max-file': logFiles } },
      // As a mount and not a bind: a missing file is an error then, and not a directory that the engine makes up.
      Mounts: mountsOf(instance, place.hostsFile),
      ...(place.cgroupParent === null ? {} : { CgroupParent: place.cgroupParent }),
      SecurityOpt: ['no-new-privileges'],
      // Reaps zombies and hands on SIGTERM, which process 1 of a container ignores by default.
      Init: true,
      ...limits(instance),
    },
    NetworkingConfig: {
      EndpointsConfig: { [place.network]: { IPAMConfig: { IPv4Address: place.address } } },
    },
  };
}

/** The lease as a directory: its files are replaced by renaming, and a mounted single file would stay the old one. */
function mountsOf(
  { exclusive, mounts = [] }: DesiredInstance,
  hostsFile: string,
): { Type: 'bind'; Source: string; Target: string; ReadOnly: boolean }[] {
  const all = [
    { source: hostsFile, target: '/etc/hosts', isReadOnly: true },
    ...(exclusive === undefined
      ? []
      : [{ source: exclusive.leaseDir, target: leaseTarget, isReadOnly: true }]),
    ...mounts,
  ];
  return all.map(({ source, target, isReadOnly }) => ({
    Type: 'bind',
    Source: source,
    Target: target,
    ReadOnly: isReadOnly,
  }));
}

/** systemd nests slices at every dash, so those of the name itself are escaped. */
export function cgroupParentOf(gate: string, driver: string): string {
  return driver === 'systemd' ? `${gate.replaceAll('-', String.raw`\x2d`)}.slice` : `/${gate}`;
}

function limits({ resources }: DesiredInstance): {
  Memory?: number;
  MemorySwap?: number;
  NanoCpus?: number;
} {
  const memoryBytes =
    resources.memoryBytes === undefined
      ? undefined
      : Math.max(memoryBytesMin, resources.memoryBytes);
  return {
    // Equal values: no swap on top, so the limit is the limit.
    ...(memoryBytes === undefined ? {} : { Memory: memoryBytes, MemorySwap: memoryBytes }),
    ...(resources.cpu === undefined ? {} : { NanoCpus: Math.round(resources.cpu * 1e9) }),
  };
}

/** exec runs in the container by the engine; http and tcp are asked from the host, so an image's own check is off. */
function healthcheck({ health }: DesiredInstance): Pick<ContainerCreateOptions, 'Healthcheck'> {
  if (health === undefined) return {};
  if (health.kind !== 'exec') return { Healthcheck: { Test: ['NONE'] } };
  return {
    Healthcheck: {
      Test: ['CMD', ...(health.command ?? [])],
      Interval: health.intervalMs * 1e6,
      Timeout: health.timeoutMs * 1e6,
      Retries: health.retries,
      StartPeriod: health.startPeriodMs * 1e6,
    },
  };
}

/** A host name has at most 63 characters; the end is what tells instances apart. */
export function hostnameOf(instance: string): string {
  return instance.length <= hostnameCharsMax
    ? instance
    : instance.slice(-hostnameCharsMax).replace(/^-+/, '');
}
