/**
 * The environment as a desired-state file: a plain object for the caller to print as YAML or JSON. Read back it gives the
 * same roles and services; what has its default is left out. Hosts, numbers and what commands set are not part of a file.
 */
import { formatDuration, formatSize } from './durations.ts';
import { leaseDefaults, placementDefault, saysMore } from './lease-leaves.ts';
import type {
  EnvView,
  HealthCheck,
  LeaseSettings,
  Role,
  Service,
  ServicePort,
  Storage,
} from './model.ts';
import { serviceDefaults } from './service-leaves.ts';
import { storageDriverDefault } from './storage-leaves.ts';

export function exportFile(view: EnvView): Record<string, unknown> {
  const roles = [...view.roles.values()].map((role) => [role.name, exportRole(role)] as const);
  const services = [...view.services.values()].map(
    (service) => [service.name, exportService(service)] as const,
  );
  const storage = [...view.storage.values()].map((one) => [one.name, exportStorage(one)] as const);
  return {
    apiVersion: 'trellis/v1',
    ...(roles.length > 0 ? { roles: Object.fromEntries(roles) } : {}),
    ...(services.length > 0 ? { services: Object.fromEntries(services) } : {}),
    ...(storage.length > 0 ? { storage: Object.fromEntries(storage) } : {}),
  };
}

function exportRole(role: Role): Record<string, unknown> {
  return {
    ...(role.minHosts > 0 ? { minHosts: role.minHosts } : {}),
    ...(role.isDedicated ? { dedicated: true } : {}),
  };
}

function exportStorage(storage: Storage): Record<string, unknown> {
  return withoutEmpty({
    role: storage.role,
    driver: unlessDefault(storage.driver, storageDriverDefault),
    path: storage.path,
    exclusive: storage.isExclusive ? true : undefined,
    lease: exportLease(storage.lease),
    placement: exportPlacement(storage.placement),
  });
}

/** A freeze is set by a command and is no part of a file. */
function exportLease(lease: LeaseSettings | undefined): Record<string, unknown> | undefined {
  if (lease === undefined || !saysMore(lease)) return undefined;
  const { preemptAfterMs, lockDelayMs } = lease;
  return withoutEmpty({
    profile: unlessDefault(lease.profile, leaseDefaults.profile),
    onLoss: unlessDefault(lease.onLoss, leaseDefaults.onLoss),
    fence: unlessDefault(lease.fence, leaseDefaults.fence),
    fenceCommand: lease.fenceCommand,
    lockDelay: lockDelayMs === leaseDefaults.lockDelayMs ? undefined : formatDuration(lockDelayMs),
    onDaemonDown: unlessDefault(lease.onDaemonDown, leaseDefaults.onDaemonDown),
    preempt: preemptAfterMs === null ? undefined : formatDuration(preemptAfterMs),
  });
}

function exportPlacement(placement: Service['placement']): Record<string, unknown> {
  return withoutEmpty({
    policy: unlessDefault(placement.policy, placementDefault.policy),
    where: placement.where,
    hosts: placement.hosts,
    key: placement.key,
  });
}

function exportService(service: Service): Record<string, unknown> {
  const { resources, placement, stopGraceMs, onIsolation } = service;
  return withoutEmpty({
    role: service.role,
    image: service.image,
    command: service.command,
    count: service.count,
    ports: service.ports.map(exportPort),
    env: service.env,
    resources: withoutEmpty({
      cpu: resources.cpu,
      memory: resources.memoryBytes === undefined ? undefined : formatSize(resources.memoryBytes),
    }),
    health: service.health === undefined ? undefined : exportHealth(service.health),
    dependsOn: service.dependsOn.map(({ service: name, port, onChange }) =>
      withoutEmpty({
        service: name,
        port,
        onChange: unlessDefault(onChange, serviceDefaults.onChange),
      }),
    ),
    relocatable: service.relocatable,
    placement: exportPlacement(placement),
    exclusive: service.isExclusive,
    follows: service.follows,
    lease: exportLease(service.lease),
    onIsolation: unlessDefault(onIsolation, serviceDefaults.onIsolation),
    stopGrace:
      stopGraceMs === serviceDefaults.stopGraceMs ? undefined : formatDuration(stopGraceMs),
  });
}

function exportPort(port: ServicePort): Record<string, unknown> {
  return withoutEmpty({
    name: port.name,
    container: port.container,
    host: port.host,
    protocol: unlessDefault(port.protocol, serviceDefaults.protocol),
    expose: unlessDefault(port.expose, serviceDefaults.expose),
  });
}

function exportHealth(health: HealthCheck): Record<string, unknown> {
  const check =
    health.kind === 'exec'
      ? health.command
      : withoutEmpty({ port: health.port, path: health.path });
  return {
    [health.kind]: check,
    interval: formatDuration(health.intervalMs),
    timeout: formatDuration(health.timeoutMs),
    retries: health.retries,
    startPeriod: formatDuration(health.startPeriodMs),
  };
}

function unlessDefault<T>(value: T, standard: T): T | undefined {
  return value === standard ? undefined : value;
}

/** Without absent values, empty lists and empty maps. */
function withoutEmpty(fields: Record<string, unknown>): Record<string, unknown> {
  return Object.fromEntries(
    Object.entries(fields).filter(([, value]) => {
      if (value === undefined) return false;
      return typeof value !== 'object' || value === null || Object.keys(value).length > 0;
    }),
  );
}
