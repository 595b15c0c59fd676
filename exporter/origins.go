package main

import (
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"time"

	"fail2ban-loki-exporter/exporter/internal/config"
	"fail2ban-loki-exporter/exporter/internal/enrich"
	"fail2ban-loki-exporter/exporter/internal/offender"
)

// openOrigins opens the files that tell where addresses come from; nil where
// none is named. What is wrong with them is only worth a warning.
func openOrigins(c *config.Enrich, log *slog.Logger) *enrich.Files {
	if c.CountryFile == "" && c.ASNFile == "" {
		return nil
	}
	files, err := enrich.Open(enrich.Options{Country: c.CountryFile, ASN: c.ASNFile, Every: time.Duration(c.CheckInterval)}, time.Now())
	warnOfOrigins(log, err)
	return files
}

func warnOfOrigins(log *slog.Logger, err error) {
	switch {
	case err == nil:
	case enrich.Absent(err):
		log.Warn("a file that tells where addresses come from is not there; it is used as soon as it is", "err", err)
	default:
		log.Warn("a file that tells where addresses come from cannot be read", "err", err)
	}
}

// withOrigins makes a ranking tell where addresses come from, and gathers them
// by their autonomous systems.
func withOrigins(o offender.Options, files *enrich.Files) offender.Options {
	if files == nil {
		return o
	}
	o.Origin = func(a netip.Addr) offender.Origin {
		return offender.Origin{Country: files.Country(a), ASN: files.ASN(a)}
	}
	o.Network = func(a netip.Addr) []string {
		if asn := files.ASN(a); asn != "" {
			return []string{asn}
		}
		return nil
	}
	return o
}

// ranking says how this daemon ranks.
func (d *daemon) ranking() offender.Options {
	o := withOrigins(offenderOptions(d.cfg), d.origins)
	o.MaxIDs = d.cfg.State.MaxTrackedKeys
	return o
}

// refreshOrigins takes new versions of the files.
func (d *daemon) refreshOrigins(now time.Time) {
	if d.origins != nil {
		warnOfOrigins(d.log, d.origins.Refresh(now))
	}
}

// checkOrigins says of each file that tells where addresses come from what it
// is. One that is not there or broken has been warned of.
func checkOrigins(cfg *config.Config, log *slog.Logger, out io.Writer) {
	files := openOrigins(&cfg.Enrich, log)
	if files == nil {
		return
	}
	for _, s := range files.States() {
		if s.Err == nil {
			fmt.Fprintf(out, "%s file: %s is %s of %s\n", s.What, s.Path, s.Type, s.Built.Format(time.DateOnly))
		}
	}
}
