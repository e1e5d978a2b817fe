# The daemon in a container, working on the engine and the network of its host. See README.md for how to run it.
FROM node:24-slim AS build
WORKDIR /src
COPY package.json package-lock.json .npmrc ./
RUN npm ci --ignore-scripts --no-audit --no-fund
COPY . .
RUN node bootstrap/build.ts && mkdir /out && tar -xzf dist/trellis-*.tar.gz -C /out

FROM node:24-slim
# Service addresses are packet filter rules of the host.
RUN apt-get update \
  && apt-get install -y --no-install-recommends iptables iproute2 conntrack \
  && rm -rf /var/lib/apt/lists/*
COPY --from=build /out/trellis /usr/local/lib/trellis/current
# Running it once proves that it runs here, and warms the compile cache.
RUN ln -s /usr/local/lib/trellis/current/bin/trellis /usr/local/bin/trellis && trellis --version
EXPOSE 7440 8443
CMD ["trellis", "daemon", "--auto-init"]
