/** AI tasks for workers like AI Task Processor. Copy the folder `ai-tasks`, and import the module in your own. */

import { Module } from '@nestjs/common';
import { DiscoveryModule } from '@nestjs/core';
import { AiTasksController } from './ai-tasks.controller';
import {
  AI_TASKS_OPTIONS,
  type AiTasksOptions,
  ConfigurableModuleClass,
} from './ai-tasks.options';
import { AiTasksService } from './ai-tasks.service';
import { BearerGuard } from './auth/bearer.guard';
import { IntrospectionVerifier } from './auth/introspection-verifier';
import { JwtVerifier } from './auth/jwt-verifier';
import { TokenVerifier } from './auth/token-verifier';
import { CallbackRegistry } from './callbacks/callback-registry';

@Module({
  imports: [DiscoveryModule],
  controllers: [AiTasksController],
  providers: [
    AiTasksService,
    BearerGuard,
    CallbackRegistry,
    {
      provide: TokenVerifier,
      useFactory: tokenVerifier,
      inject: [AI_TASKS_OPTIONS],
    },
  ],
  exports: [AiTasksService, BearerGuard, TokenVerifier],
})
export class AiTasksModule extends ConfigurableModuleClass {}

function tokenVerifier(options: AiTasksOptions): TokenVerifier {
  return options.introspection
    ? new IntrospectionVerifier(
        options.introspection,
        options.issuer,
        options.audience,
      )
    : new JwtVerifier(options);
}
