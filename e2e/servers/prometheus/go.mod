// The real Prometheus for the end-to-end tests and the demo, in a module of
// its own: beside Loki's requirements it would get other versions than its own.
// Built with -tags remove_all_sd: service discovery is of no use here and pulls
// in a module that not every module proxy serves.
module fail2ban-loki-exporter/e2e/servers/prometheus

go 1.26.7

require github.com/prometheus/prometheus v0.316.0
