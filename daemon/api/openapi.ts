/** OpenAPI 3.1 from the operations' own schemas: nothing is written twice, so nothing can drift. */
import { z } from 'zod';
import type { ZodType } from 'zod';
import { errorTable } from '../errors.ts';
import type { Operation } from '../operations/operation.ts';

export function openApiDocument(operations: readonly Operation[], version: string): unknown {
  const served = operations.filter((operation) => operation.isSocketOnly !== true);
  return {
    openapi: '3.1.0',
    info: {
      title: 'Trellis',
      version,
      description:
        'Every command of `trellis` as one POST. Log in at /api/v1/operator/login for a bearer token.',
    },
    paths: Object.fromEntries(
      served.map((one) => [`/api/v1/${one.group}/${one.command}`, { post: describe(one) }]),
    ),
    components: {
      securitySchemes: { bearer: { type: 'http', scheme: 'bearer' } },
      schemas: {
        Error: {
          type: 'object',
          required: ['error'],
          properties: {
            error: {
              type: 'object',
              required: ['code', 'message', 'details'],
              properties: {
                code: { type: 'string', enum: Object.keys(errorTable) },
                message: { type: 'string' },
                details: { type: 'object' },
              },
            },
          },
        },
      },
    },
  };
}

function describe(operation: Operation): unknown {
  const isStream = operation.isStream === true;
  const data = operation.data === undefined ? {} : schemaOf(operation.data, 'output');
  const type = isStream ? 'application/x-ndjson' : 'application/json';
  return {
    operationId: `${operation.group}-${operation.command}`,
    tags: [operation.group],
    summary: operation.summary,
    description: isStream
      ? 'Lines of JSON: progress, data, and at the end result or error.'
      : `Needs: ${operation.access}.`,
    security: operation.access === 'public' ? [] : [{ bearer: [] }],
    requestBody: {
      content: { 'application/json': { schema: schemaOf(operation.params, 'input') } },
    },
    responses: {
      200: { description: 'done', content: { [type]: { schema: data } } },
      default: {
        description: 'refused or failed',
        content: { 'application/json': { schema: { $ref: '#/components/schemas/Error' } } },
      },
    },
  };
}

function schemaOf(schema: ZodType, io: 'input' | 'output'): unknown {
  const { $schema: _, ...rest } = z.toJSONSchema(schema, { io, unrepresentable: 'any' }) as Record<
    string,
    unknown
  >;
  return rest;
}
