# GPU image:  docker build -t embedding-service .
# CPU image:  docker build -t embedding-service --build-arg BASE=python:3.13-slim .
# Another CUDA: --build-arg PYTORCH_TAG=..., a tag of pytorch/pytorch that your driver supports.
ARG PYTORCH_TAG=2.13.0-cuda13.0-cudnn9-runtime
ARG BASE=pytorch/pytorch:${PYTORCH_TAG}
FROM ${BASE}

# Where torch is from on a base without it: PyTorch's builds for CPUs. Its builds with CUDA take
# 2.5 GB more to download; for a GPU on a base of your own name their index (.../whl/cu130).
ARG TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu
# PyTorch's images have Ubuntu's Python, where pip refuses to install without BREAK_SYSTEM_PACKAGES.
ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_BREAK_SYSTEM_PACKAGES=1 \
    HF_HOME=/models/huggingface STORE_DIR=/data/store DATA_DIR=/data \
    EMBEDDING_DB_URL=sqlite:////data/service.db
WORKDIR /app

COPY requirements.txt .
RUN grep '^torch==' requirements.txt > torch.txt \
    && { python -c "import torch" 2>/dev/null \
         || pip install ${TORCH_INDEX_URL:+--index-url "$TORCH_INDEX_URL"} -r torch.txt; } \
    && pip install -r requirements.txt

# The packages that send traces, for OTEL_ENABLED=true.
ARG TRACING=false
RUN if [ "$TRACING" = true ]; then pip install \
    opentelemetry-sdk==1.45.2 opentelemetry-exporter-otlp-proto-http==1.45.2; fi

# The service writes to two folders only; a new volume gets their owner.
RUN useradd --create-home --uid 10001 service && mkdir -p /models /data && chown service /models /data
COPY *.py model_config.json model_config.example.json supported_models.txt ./
COPY CHANGELOG.md LICENSE THIRD_PARTY_NOTICES.md ./
COPY accounts/ accounts/
COPY cache/ cache/
COPY commands/ commands/
COPY config/ config/
COPY documents/ documents/
COPY embedders/ embedders/
COPY observability/ observability/
COPY routes/ routes/
COPY schemas/ schemas/
COPY server/ server/
COPY serving/ serving/
COPY settings/ settings/
COPY sql/ sql/
COPY store/ store/
COPY tools/ tools/
COPY web/ web/

USER 10001
VOLUME /models /data
EXPOSE 8001
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s CMD ["python", "-m", "server.healthy"]
# Takes the flags of text-embeddings-inference (--model-id, --port, ...), also after the word that
# starts another image (SageMaker's is serve), or any other command.
ENTRYPOINT ["/bin/sh", "-c", "case \"${1:--}\" in \
    -*|serve|text-embeddings-router|v2) exec python cli.py serve \"$@\";; esac; \
    exec \"$@\"", "start"]
CMD []
