import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { renderJoinCommand, renderJoinCommandWithoutCurl } from '../../../bootstrap/join-script.ts';
import { newCluster } from '../trust/cluster.ts';
import type { TestCluster } from '../trust/cluster.ts';
import { startWorld } from './world.ts';
import type { World } from './world.ts';

const run = promisify(execFile);
let cluster: TestCluster;
let world: World;
let stranger: World;
beforeAll(async () => {
  cluster = await newCluster();
  world = await startWorld(cluster);
  stranger = await startWorld(await newCluster('shop'));
});
afterAll(async () => {
  await world.stop();
  await stranger.stop();
});

/** Runs what the test's API serves as /join, which only says that it runs. */
test.each([
  ['curl', renderJoinCommand],
  ['openssl', renderJoinCommandWithoutCurl],
])(
  '[trellis:H8] the printed line with %s gets the script from the peer that is of this cluster',
  async (_, render) => {
    const { code } = cluster.invite();
    const target = { caPem: cluster.founding.caPem, clusterName: 'shop', code };
    const peers = [`127.0.0.1:${stranger.port}`, `127.0.0.1:1`, `127.0.0.1:${world.port}`];
    const { stdout } = await run('sh', ['-c', render({ ...target, peers })]);
    expect(stdout.trim()).toBe('joining');
    const nobody = await run('sh', ['-c', render({ ...target, peers: peers.slice(0, 2) })]).catch(
      (error: { stdout: string }) => error,
    );
    expect(nobody.stdout).toBe('');
  },
);
