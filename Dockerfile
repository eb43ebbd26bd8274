# docker build --target cpu -t yolov12 . (or --target cuda, the default), then
# docker run --rm --gpus all --shm-size 8g -v "$PWD:/work" yolov12 yolo train model=yolov12n.yaml data=mine.yaml
FROM python:3.12-slim-bookworm AS base
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 YOLO_CONFIG_DIR=/home/yolo/.config
# What OpenCV loads beside itself; the versions are those of the base image's release.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgl1 libglib2.0-0 \
    && rm -rf /var/lib/apt/lists/*
RUN useradd --create-home --uid 1000 yolo && install --directory --owner=yolo /work

FROM base AS wheel
COPY . /src
RUN pip wheel --no-deps --wheel-dir /wheels /src

FROM base AS cpu
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
# What a release takes is in pyproject.toml, and an image has the newest of it.
# hadolint ignore=DL3013
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    pip install --index-url "$TORCH_INDEX" "torch>=2.1" "torchvision>=0.16" \
    && pip install "$(echo /wheels/*.whl)[export,hub]"
USER 1000
WORKDIR /work
CMD ["yolov12", "doctor"]

FROM base AS cuda
# CUDA 12 and TensorRT 10: the newest that also drives a T4.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cu126
# hadolint ignore=DL3013
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    pip install --index-url "$TORCH_INDEX" "torch>=2.1" "torchvision>=0.16" \
    && pip install "$(echo /wheels/*.whl)[export,hub]" "tensorrt-cu12>=10,<11,!=10.2.0"
USER 1000
WORKDIR /work
CMD ["yolov12", "doctor"]
