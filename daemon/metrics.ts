/** What `/metrics` shows of this daemon, as plain values. */
import type { Api } from './api/create-api.ts';
import type { Metric } from './api/metrics.ts';
import type { Member } from './member.ts';
import type { BlobTransfer } from './net/blob-transfer.ts';

export function collectMetrics(parts: {
  readonly member: Member | null;
  readonly blobs: BlobTransfer | null;
  readonly api: Api;
}): readonly Metric[] {
  const api = parts.api.counters();
  const memory = process.memoryUsage();
  const base: Metric[] = [
    gauge('process_resident_memory_bytes', 'Resident memory of the daemon.', memory.rss),
    gauge('process_cpu_seconds', 'Processor time used, user and system.', cpuSeconds()),
    gauge(
      'trellis_api_connections',
      'Open API connections.',
      api.socketConnections + api.httpsConnections,
    ),
    counter(
      'trellis_api_connections_refused_total',
      'API connections refused by a limit.',
      api.connectionsRefused,
    ),
    counter(
      'trellis_api_handshakes_failed_total',
      'TLS handshakes that failed.',
      api.handshakesFailed,
    ),
  ];
  return parts.member === null ? base : [...base, ...memberMetrics(parts.member, parts.blobs)];
}

function memberMetrics(member: Member, blobs: BlobTransfer | null): Metric[] {
  const { node, network } = member;
  const net = network.counters();
  const liveness = new Map<string, number>();
  for (const { liveness: status } of node.members())
    liveness.set(status, (liveness.get(status) ?? 0) + 1);
  return [
    {
      name: 'trellis_members',
      help: 'Members by liveness as seen from here.',
      type: 'gauge',
      samples: [...liveness].map(([status, value]) => ({ labels: { liveness: status }, value })),
    },
    gauge('trellis_connections', 'Connections to other members.', net.connections),
    counter('trellis_network_sent_bytes_total', 'Frame bytes sent to members.', net.bytesSent),
    counter(
      'trellis_network_received_bytes_total',
      'Frame bytes received from members.',
      net.bytesReceived,
    ),
    counter(
      'trellis_network_frames_dropped_total',
      'Frames not sent: no connection, full queue or too large.',
      net.framesDroppedFull + net.framesDroppedUnconnected + net.framesDroppedTooLarge,
    ),
    counter(
      'trellis_strangers_refused_total',
      'Connections of keys that are not in the roster.',
      net.strangersRefused,
    ),
    counter(
      'trellis_connections_limited_total',
      'Connections refused before any proof.',
      net.connectionsLimited,
    ),
    counter(
      'trellis_handshakes_failed_total',
      'Peer handshakes that failed.',
      net.handshakesFailed,
    ),
    counter(
      'trellis_protocol_errors_total',
      'Malformed or foreign messages of members.',
      net.protocolErrors,
    ),
    counter(
      'trellis_envelopes_rejected_total',
      'Configuration edits refused.',
      node.replica.documents.rejected,
    ),
    gauge(
      'trellis_envelopes_parked',
      'Configuration edits waiting for what they build on.',
      node.replica.documents.parkedCount(),
    ),
    counter('trellis_facts_rejected_total', 'Facts refused.', node.replica.facts.rejected),
    gauge(
      'trellis_conflicts',
      'Concurrent edits that nobody has settled yet.',
      node.conflicts().length,
    ),
    counter(
      'trellis_blob_fetched_bytes_total',
      'Blob bytes fetched from other members.',
      blobs?.fetchedBytes ?? 0,
    ),
  ];
}

function gauge(name: string, help: string, value: number): Metric {
  return { name, help, type: 'gauge', samples: [{ value }] };
}

function counter(name: string, help: string, value: number): Metric {
  return { name, help, type: 'counter', samples: [{ value }] };
}

function cpuSeconds(): number {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1e6;
}
