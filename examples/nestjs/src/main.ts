import 'reflect-metadata';
import { NestFactory } from '@nestjs/core';
import type { NestExpressApplication } from '@nestjs/platform-express';
import { BODY_LIMIT } from './ai-tasks';
import { AppModule } from './app.module';
import { port } from './environment';

async function main(): Promise<void> {
  const app = await NestFactory.create<NestExpressApplication>(AppModule);
  app.useBodyParser('json', { limit: BODY_LIMIT });
  app.enableShutdownHooks();
  await app.listen(port(process.env), process.env.HOST ?? '127.0.0.1');
}

void main();
