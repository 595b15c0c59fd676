# syntax=docker/dockerfile:1

# The image of fail2ban-loki-exporter: the static binary, CA certificates and
# zone data, nothing else. Cross-compiled, so that no platform is emulated:
#   docker build -t fail2ban-loki-exporter --build-arg VERSION=$(git describe --tags --always) .
#   docker buildx build --platform linux/amd64,linux/arm64 …

FROM --platform=$BUILDPLATFORM golang:1.26 AS build
ARG TARGETOS=linux
ARG TARGETARCH
ARG VERSION=dev
ARG REVISION=unknown
ARG BRANCH=unknown
ARG BUILD_DATE=unknown
ENV GOCACHE=/go/cache
WORKDIR /src
# The modules first: they change less often than the source.
COPY go.mod go.sum ./
RUN --mount=type=cache,target=/go/pkg/mod go mod download
COPY exporter ./exporter
RUN --mount=type=cache,target=/go/pkg/mod --mount=type=cache,target=/go/cache \
    CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH go build -trimpath -ldflags "-s -w \
      -X github.com/prometheus/common/version.Version=$VERSION \
      -X github.com/prometheus/common/version.Revision=$REVISION \
      -X github.com/prometheus/common/version.Branch=$BRANCH \
      -X github.com/prometheus/common/version.BuildUser=docker \
      -X github.com/prometheus/common/version.BuildDate=$BUILD_DATE" \
    -o /out/fail2ban-loki-exporter ./exporter
# What the empty image below needs besides: zone data, and folders that its
# user may write to.
RUN mkdir -p /out/state /out/tmp && chmod 1777 /out/tmp \
    && cp "$(go env GOROOT)/lib/time/zoneinfo.zip" /out/zoneinfo.zip

FROM scratch
LABEL org.opencontainers.image.title="fail2ban-loki-exporter" \
      org.opencontainers.image.description="True bans, restores and offenders out of fail2ban's logs in Loki" \
      org.opencontainers.image.licenses="Apache-2.0 AND AGPL-3.0-only"
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /out/zoneinfo.zip /usr/share/zoneinfo.zip
ENV ZONEINFO=/usr/share/zoneinfo.zip
COPY --from=build /out/tmp /tmp
COPY --from=build --chown=65532:65532 /out/state /var/lib/fail2ban-loki-exporter
COPY --from=build /out/fail2ban-loki-exporter /fail2ban-loki-exporter
COPY deploy/docker/config.yaml /etc/fail2ban-loki-exporter/config.yaml
COPY LICENSE NOTICE /usr/share/doc/fail2ban-loki-exporter/

USER 65532:65532
WORKDIR /var/lib/fail2ban-loki-exporter
VOLUME /var/lib/fail2ban-loki-exporter
EXPOSE 10191
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s --retries=3 \
  CMD ["/fail2ban-loki-exporter", "check", "--health"]
ENTRYPOINT ["/fail2ban-loki-exporter"]
CMD ["run", "--config.file=/etc/fail2ban-loki-exporter/config.yaml", "--config.expand-env"]
