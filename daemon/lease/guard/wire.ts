/** PLACEHOLDER */
import type { Message } from '../messages.ts';
export function encodeMessages(messages: readonly Message[]): Uint8Array[] {
  return [Buffer.from(JSON.stringify(messages))];
}
export function decodeMessages(body: Uint8Array): readonly Message[] | { rejected: string } {
  return JSON.parse(Buffer.from(body).toString()) as Message[];
}
