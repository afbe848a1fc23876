import { InMemoryAiTaskStore } from '../src/ai-tasks';
import { storeContract } from './store-contract';

storeContract('in memory', async () => new InMemoryAiTaskStore());
