/** The routes that workers use. */

import {
  Body,
  Controller,
  Get,
  HttpCode,
  Param,
  Patch,
  Post,
  Query,
  UseGuards,
  ValidationPipe,
} from '@nestjs/common';
import { AiTasksService, type ReportAnswer } from './ai-tasks.service';
import { BearerGuard } from './auth/bearer.guard';
import { RequiredScope } from './auth/required-scope';
import { ClaimDto } from './dto/claim.dto';
import { PendingDto } from './dto/pending.dto';
import { BulkReportDto, ReportDto } from './dto/report.dto';
import {
  type LeasedTaskJson,
  type TaskJson,
  changedJson,
  leasedJson,
  pendingJson,
} from './dto/task-json';
import { ValidatedPipe } from './dto/validated';

const QUERY = new ValidationPipe({
  transform: true,
  whitelist: true,
  errorHttpStatusCode: 422,
});
const BODY = new ValidatedPipe();

@Controller('api/ai-tasks')
@UseGuards(BearerGuard)
export class AiTasksController {
  constructor(private readonly tasks: AiTasksService) {}

  @Get('pending')
  @RequiredScope('read')
  async pending(@Query(QUERY) { limit }: PendingDto): Promise<TaskJson[]> {
    return (await this.tasks.pending(limit)).map(pendingJson);
  }

  @Post('claim')
  @HttpCode(200)
  @RequiredScope('write')
  async claim(@Body(BODY) claim: ClaimDto): Promise<LeasedTaskJson[]> {
    return (await this.tasks.claim(claim)).map(leasedJson);
  }

  @Patch()
  @RequiredScope('write')
  async reportAll(
    @Body(BODY) { results }: BulkReportDto,
  ): Promise<{ results: ReportAnswer[] }> {
    return { results: await this.tasks.reportAll(results) };
  }

  @Patch(':id')
  @RequiredScope('write')
  async report(
    @Param('id') id: string,
    @Body(BODY) report: ReportDto,
  ): Promise<Record<string, string>> {
    return changedJson(await this.tasks.report(id, report));
  }
}
