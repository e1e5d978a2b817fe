import { defineConfig } from 'vitest/config';

/**
 * Two projects: `fast` (everything that needs no hosts) and `e2e` (real hosts, engines and packets), which is listed only
 * when a run names it (`--project e2e` or a path under test/e2e), so that a bare `vitest run` never starts engines.
 *
 * Tests load through Node's own loader (`viteModuleRunner: false`): what Node refuses in production fails here too.
 * End-to-end files called `*.full.test.ts` belong to `npm run e2e -- --full` only.
 */
const isE2eNamed = process.argv.some((argument) => argument.includes('e2e'));
const isFull = process.env['TRELLIS_E2E'] === 'full';

const native = { experimental: { viteModuleRunner: false } };

export default defineConfig({
  test: {
    maxWorkers: 2,
    projects: [
      {
        test: {
          ...native,
          name: 'fast',
          include: ['test/{unit,property,sim,model,conformance}/**/*.test.ts'],
          testTimeout: 20_000,
          hookTimeout: 30_000,
        },
      },
      ...(isE2eNamed
        ? [
            {
              test: {
                ...native,
                name: 'e2e',
                include: ['test/e2e/**/*.test.ts'],
                exclude: isFull ? [] : ['test/e2e/**/*.full.test.ts'],
                // One world at a time: hosts share the machine's kernel.
                fileParallelism: false,
                testTimeout: 120_000,
                hookTimeout: 180_000,
              },
            },
          ]
        : []),
    ],
  },
});
