// The end-to-end tests and the demo: they drive the built binary as a black
// box against real servers, and import nothing but the standard library.
module fail2ban-loki-exporter/e2e

go 1.26.5
