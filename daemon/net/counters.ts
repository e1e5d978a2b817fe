import type { NetworkCounters } from './peer-network.ts';

export type MutableCounters = { -readonly [K in keyof NetworkCounters]: number };

export function newCounters(): MutableCounters {
  return {
    framesSent: 0,
    framesReceived: 0,
    bytesSent: 0,
    bytesReceived: 0,
    framesDroppedFull: 0,
    framesDroppedUnconnected: 0,
    framesDroppedTooLarge: 0,
    strangersRefused: 0,
    connectionsLimited: 0,
    handshakesFailed: 0,
    protocolErrors: 0,
    streamsRefused: 0,
    dials: 0,
    dialsFailed: 0,
    connections: 0,
  };
}
