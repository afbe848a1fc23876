"""llama.cpp's own server in this process, as llama-server runs it, with the weights of a small language model."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.engines.installed import runtime, smollm2

DIMENSIONS = 576
MOST_TOKENS = 128
MODEL = "smollm2"


@contextmanager
def llama_server(**options: Any) -> Iterator[str]:
    """Serve on a free port of loopback; answers the address with its ``/v1``.

    ``options`` are those of llama-server, under the names of its parameters: ``n_parallel`` is ``-np``, ``kv_unified``
    is ``-kvu``, ``api_keys`` is ``--api-key``.
    """
    xllamacpp = runtime("xllamacpp")
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(smollm2())
    parameters.model_alias = {MODEL}
    parameters.embedding = True
    parameters.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    parameters.n_ctx = MOST_TOKENS * options.get("n_parallel", 1)
    parameters.n_batch = parameters.n_ubatch = MOST_TOKENS
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = 1  # more wait for each other on few cores
    parameters.warmup = False
    parameters.verbosity = -1
    for name, value in options.items():
        setattr(parameters, name, value)
    server = xllamacpp.Server(parameters)
    server.handle_embeddings({"input": "a"})  # one that is let go before it has begun to work never ends
    yield f"{server.listening_address}/v1"
    del server
