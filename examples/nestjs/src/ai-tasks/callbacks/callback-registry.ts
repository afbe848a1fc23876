/** Knows every method that carries `@AiTaskCallback`, by its route. */

import { Injectable, type OnModuleInit } from '@nestjs/common';
import { DiscoveryService, MetadataScanner } from '@nestjs/core';
import { AiTaskCallback, type AiTaskCallbackMethod } from './ai-task-callback';

type Instance = Record<string, AiTaskCallbackMethod>;

@Injectable()
export class CallbackRegistry implements OnModuleInit {
  private readonly callbacks = new Map<string, AiTaskCallbackMethod>();

  constructor(
    private readonly discovery: DiscoveryService,
    private readonly scanner: MetadataScanner,
  ) {}

  onModuleInit(): void {
    for (const wrapper of this.discovery.getProviders()) {
      const instance = wrapper.instance as Instance | null | undefined;
      for (const name of this.methodsOf(instance)) {
        const route = this.discovery.getMetadataByDecorator(
          AiTaskCallback,
          wrapper,
          name,
        );
        if (instance && route !== undefined) {
          this.register(route, (task) => instance[name]?.(task));
        }
      }
    }
  }

  find(route: string): AiTaskCallbackMethod | undefined {
    return this.callbacks.get(route);
  }

  private methodsOf(instance: Instance | null | undefined): string[] {
    const prototype: unknown = instance && Object.getPrototypeOf(instance);
    return this.scanner.getAllMethodNames(prototype ?? null);
  }

  private register(route: string, callback: AiTaskCallbackMethod): void {
    if (this.callbacks.has(route)) {
      throw new Error(
        `Two methods carry @AiTaskCallback('${route}'); one of them must go`,
      );
    }
    this.callbacks.set(route, callback);
  }
}
