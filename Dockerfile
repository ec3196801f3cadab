# mnv4-deploy with everything: export, profile, drift. CPU only.
#   docker build -t mnv4-deploy .
#   docker run --rm --user "$(id -u):$(id -g)" -v "$PWD:/work" mnv4-deploy export hybrid-m --int8
FROM python:3.11-slim

# PyTorch's own index has torch without CUDA; an empty one takes what pip finds.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu

COPY . /src
RUN if [ -n "$TORCH_INDEX" ]; then \
      pip install --no-cache-dir --no-deps --index-url "$TORCH_INDEX" \
        "$(grep '^torch==' /src/constraints.txt)"; \
    fi \
 && pip install --no-cache-dir --constraint /src/constraints.txt '/src[export]' /src/demo_data \
 && rm -rf /src

# Anybody may run it (--user): what is kept between commands has a folder that all can write to.
ENV MNV4_DEPLOY_CACHE=/var/cache/mnv4-deploy/own \
    XDG_CACHE_HOME=/var/cache/mnv4-deploy \
    HF_HOME=/var/cache/mnv4-deploy/huggingface \
    MPLCONFIGDIR=/var/cache/mnv4-deploy/matplotlib
RUN useradd --create-home user && install -d -m 1777 /var/cache/mnv4-deploy && install -d -o user /work
USER user
WORKDIR /work
ENTRYPOINT ["mnv4-deploy"]
CMD ["--help"]
