package main

import (
	"log/slog"
	"time"

	"fail2ban-loki-exporter/exporter/internal/config"
	"fail2ban-loki-exporter/exporter/internal/correlate"
	"fail2ban-loki-exporter/exporter/internal/loki"
	"fail2ban-loki-exporter/exporter/internal/offender"
	"fail2ban-loki-exporter/exporter/internal/publish"

	"github.com/grafana/dskit/backoff"
	"github.com/prometheus/common/version"
)

const defaultConfigFile = "/etc/fail2ban-loki-exporter/config.yaml"

func loadConfig(c *common) (*config.Config, error) {
	return config.LoadFile(c.configFile, c.expandEnv, config.Validators{Query: loki.ValidateQuery, Format: checkFormat})
}

// newLokiClient makes the client that reads a source. self, where given, counts
// its requests; p is told how far it has come.
func newLokiClient(s *config.Source, log *slog.Logger, self *publish.Self, p *progress) (*loki.Client, error) {
	o := loki.Options{
		URL: s.URL.URL, TenantID: s.TenantID, HTTP: s.HTTP, Timeout: time.Duration(s.Timeout),
		PageSize: s.PageSize, MaxParallel: s.MaxParallel, MaxBuffer: int64(s.MaxBuffer), MaxMessage: int64(s.MaxMessage),
		Backoff: backoffConfig(s.Backoff), UserAgent: userAgent(),
		Retrying: func(err error) { log.Warn("request failed; trying again", "source_name", s.Name, "err", err) },
	}
	if p != nil {
		o.Progress = func(at loki.Progress) { p.tell(time.Now(), at) }
	}
	if self != nil {
		o.Observe = func(code string, took time.Duration) {
			self.LokiRequests.WithLabelValues(code).Inc()
			self.LokiDuration.Observe(took.Seconds())
		}
	}
	return loki.New(o)
}

// newPushClient makes the client that findings are pushed through.
func newPushClient(c *config.Client, log *slog.Logger) (*loki.Client, error) {
	return loki.New(loki.Options{
		URL: c.URL.URL, TenantID: c.TenantID, HTTP: c.HTTP, Timeout: time.Duration(c.Timeout), Backoff: backoffConfig(c.Backoff), UserAgent: userAgent(),
		MaxParallel: 2, Retrying: func(err error) { log.Warn("push failed; trying again", "client", config.ShownURL(c.URL), "err", err) },
	})
}

// impatient bounds the tries of a command that somebody waits for.
func impatient(b config.Backoff) config.Backoff {
	const tries = 3
	if b.MaxRetries == 0 || b.MaxRetries > tries {
		b.MaxRetries = tries
	}
	return b
}

func backoffConfig(b config.Backoff) backoff.Config {
	return backoff.Config{MinBackoff: time.Duration(b.MinPeriod), MaxBackoff: time.Duration(b.MaxPeriod), MaxRetries: b.MaxRetries}
}

func userAgent() string { return name + "/" + version.Version }

func correlateOptions(c *config.Config) correlate.Options {
	d := &c.Correlate
	return correlate.Options{
		OrderWindow: time.Duration(d.OrderWindow), LostSettle: time.Duration(d.LostSettle), FailedAgainWindow: time.Duration(d.FailedAgainWindow),
		PrematureWindow: time.Duration(d.PrematureWindow), ExpiryTolerance: time.Duration(d.ExpiryTolerance),
		ExpectedEndGrace: time.Duration(d.ExpectedEndGrace), StopPause: time.Duration(d.StopPause), BannedGrace: time.Duration(d.BannedGrace),
	}
}

func adviceOptions(c *config.Config) offender.AdviceOptions {
	a := &c.Offenders.Advice
	return offender.AdviceOptions{Cover: a.Cover, MinEnds: a.MinEnds, MinReoffences: a.MinReoffences, MinShare: a.MinShare}
}

func offenderOptions(c *config.Config) offender.Options {
	o := &c.Offenders
	s, ca := &o.Score, &o.Campaigns
	return offender.Options{
		Score: &offender.Score{
			HalfLife: time.Duration(s.HalfLife), ReturnBonus: s.ReturnBonus, ReturnHalfLife: time.Duration(s.ReturnHalfLife),
			JailWeights: s.JailWeights, ManualWeight: s.ManualWeight, HostFactor: s.HostFactor, JailFactor: s.JailFactor, Saturation: s.Saturation,
		},
		RepeatBans: o.RepeatBans, PersistentBans: o.PersistentBans, Window: time.Duration(o.Window), RecidiveJails: o.RecidiveJails,
		IPv4Prefix: o.IPv4Prefix, IPv6Prefixes: o.IPv6Prefixes,
		Campaigns: offender.CampaignOptions{Window: time.Duration(ca.Window), IDs: ca.IDs, Networks: ca.Networks},
	}
}
