package main

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"fail2ban-loki-exporter/exporter/internal/config"
	"fail2ban-loki-exporter/exporter/internal/fail2ban"
)

// newFormat makes a format of the configuration ready to read lines.
func newFormat(c *config.Format) (*fail2ban.Format, error) {
	o := fail2ban.FormatOptions{Name: c.Name, Pattern: c.Pattern, Regexp: c.Regexp, TimeFormat: c.TimeFormat}
	if c.Timezone != "auto" && c.Timezone != "" {
		zone, err := time.LoadLocation(c.Timezone)
		if err != nil {
			return nil, &fail2ban.FormatError{Key: "timezone", Err: err}
		}
		o.Location = zone
	}
	return fail2ban.NewFormat(o)
}

// checkFormat is the configuration's validator of formats.
func checkFormat(c config.Format) (key string, err error) {
	_, err = newFormat(&c)
	if fe, ok := errors.AsType[*fail2ban.FormatError](err); ok {
		return fe.Key, fe.Err
	}
	return "pattern", err
}

// parserOptions says how the lines of a source are read.
func parserOptions(cfg *config.Config, s *config.Source) (fail2ban.Options, error) {
	o := fail2ban.Options{MessageFields: s.Fields, Jails: s.Jails}
	c := cfg.FormatNamed(s.Format)
	if c == nil {
		return o, nil
	}
	var err error
	if o.Format, err = newFormat(c); err != nil {
		return o, fmt.Errorf("format %s: %w", c.Name, err)
	}
	return o, nil
}

// namesHost tells whether a source's lines name their host.
func namesHost(cfg *config.Config, s *config.Source) bool {
	o, err := parserOptions(cfg, s)
	return err == nil && o.Format != nil && o.Format.NamesHost()
}

// patternName names a format that was given as a pattern on the command line,
// and so the jail where its lines name none.
const patternName = "custom"

// fileFormat is the format of --line-format, nil for the known forms.
func (r *reportCommand) fileFormat() (*fail2ban.Format, error) {
	if r.lineFormat == "" || r.lineFormat == config.AutoFormat {
		return nil, nil
	}
	if strings.Contains(r.lineFormat, "<") {
		f, err := fail2ban.NewFormat(fail2ban.FormatOptions{Name: patternName, Pattern: r.lineFormat})
		if fe, ok := errors.AsType[*fail2ban.FormatError](err); ok {
			return nil, usageError{fmt.Errorf("--line-format: %w", fe.Err)}
		}
		return f, err
	}
	cfg, err := loadConfig(r.common)
	if err != nil {
		return nil, fmt.Errorf("--line-format: %w", err)
	}
	c := cfg.FormatNamed(r.lineFormat)
	if c == nil {
		return nil, usageError{fmt.Errorf("--line-format: %q is no entry of `formats` in %s, and no pattern: that holds parts like <ip>", r.lineFormat, r.common.configFile)}
	}
	return newFormat(c)
}
