import { expect, test } from 'vitest';
import { renderJoinCommand } from '../../../bootstrap/join-script.ts';
import { parseTicket } from '../../../daemon/cli/ticket.ts';

const caPem = `-----BEGIN CERTIFICATE-----\n${'QUJD'.repeat(16)}\nREVG\n-----END CERTIFICATE-----\n`;
const code = 'y0sq-sgc3-5tks-mz6p-h3my-259j-1yw6-vnye';
const peers = ['10.0.0.1:8443', '[fd00::2]:8443'];

test('join takes the bare code, the JSON of invite and the printed line [trellis:H8]', () => {
  expect(parseTicket(`${code}\n`)).toEqual({ code });
  expect(parseTicket(JSON.stringify({ code, peers, caPem, id: 'x' }))).toEqual({
    code,
    peers,
    caPem,
  });
  const line = renderJoinCommand({ caPem, clusterName: 'c', peers, code });
  expect(parseTicket(line)).toEqual({ code, peers, caPem });
});

test('what is none of these stays a code, to be refused as one', () => {
  expect(parseTicket('{broken')).toEqual({ code: '{broken' });
  expect(parseTicket('')).toEqual({ code: '' });
});
