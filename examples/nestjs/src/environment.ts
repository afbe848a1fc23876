/** The settings of this example, from the environment. */

import type { AiTasksOptions } from './ai-tasks';

type Environment = Record<string, string | undefined>;

export function aiTasksOptions(environment: Environment): AiTasksOptions {
  const introspectionUrl = environment.TOKEN_INTROSPECTION_URL;
  return {
    issuer: required(environment, 'TOKEN_ISSUER'),
    audience: required(environment, 'TOKEN_AUDIENCE'),
    jwksUri: environment.TOKEN_JWKS_URI,
    introspection: introspectionUrl
      ? {
          url: introspectionUrl,
          authorization: environment.TOKEN_INTROSPECTION_AUTHORIZATION,
          cacheSeconds: number(
            environment,
            'TOKEN_INTROSPECTION_CACHE_SECONDS',
          ),
        }
      : undefined,
    clockToleranceSeconds: number(environment, 'TOKEN_CLOCK_TOLERANCE_SECONDS'),
    jwksCooldownSeconds: number(environment, 'TOKEN_JWKS_COOLDOWN_SECONDS'),
  };
}

export function port(environment: Environment): number {
  return number(environment, 'PORT') ?? 3000;
}

function required(environment: Environment, name: string): string {
  const value = environment[name];
  if (!value) {
    throw new Error(`${name} is not set; README.md says what it must be`);
  }
  return value;
}

function number(environment: Environment, name: string): number | undefined {
  const value = environment[name];
  if (value === undefined || value === '') {
    return undefined;
  }
  if (!/^\d+(\.\d+)?$/.test(value)) {
    throw new Error(`${name} must be a number, not ${value}`);
  }
  return Number(value);
}
