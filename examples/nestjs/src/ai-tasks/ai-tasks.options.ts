/** What the module must be told. */

import {
  ConfigurableModuleBuilder,
  type DynamicModule,
  type Type,
} from '@nestjs/common';
import { AiTaskStore } from './store/ai-task-store';
import { InMemoryAiTaskStore } from './store/in-memory-ai-task-store';

export interface AiTasksOptions {
  /** The token server, exactly as its tokens name it in `iss`. */
  issuer: string;
  /** What the tokens must name in `aud`. Without it every token of the issuer will do that has the scopes. */
  audience?: string;
  /** Where the issuer's public keys are; by default where its discovery document says. */
  jwksUri?: string;
  /** For opaque tokens (Ory's default), which only the token server itself can read (RFC 7662). */
  introspection?: {
    url: string;
    authorization?: string;
    cacheSeconds?: number;
  };
  /** By how much the clocks of token server and API may differ. */
  clockToleranceSeconds?: number;
  /** At least this long the issuer's keys are not asked for again, however many tokens name an unknown one. */
  jwksCooldownSeconds?: number;
  /** After this time a callback that has not ended is taken for dead, and run again when the report is sent again. */
  callbackSeconds?: number;
}

export interface AiTasksExtras {
  /** Where the tasks are kept; what its constructor asks for is provided by `imports`. */
  store: Type<AiTaskStore>;
  imports: NonNullable<DynamicModule['imports']>;
}

export const {
  ConfigurableModuleClass,
  MODULE_OPTIONS_TOKEN: AI_TASKS_OPTIONS,
} = new ConfigurableModuleBuilder<AiTasksOptions>()
  .setClassMethodName('forRoot')
  .setExtras<AiTasksExtras>(
    { store: InMemoryAiTaskStore, imports: [] },
    (definition, extras) => ({
      ...definition,
      global: true, // imported once, and its exports can be injected everywhere
      imports: extras.imports,
      providers: [
        ...(definition.providers ?? []),
        { provide: AiTaskStore, useClass: extras.store },
      ],
    }),
  )
  .build();
