package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"gopkg.in/yaml.v3"

	"fail2ban-loki-exporter/exporter/internal/config"
	"fail2ban-loki-exporter/exporter/internal/fail2ban"
	"fail2ban-loki-exporter/exporter/internal/loki"
	"fail2ban-loki-exporter/exporter/internal/publish"
)

// How much of each candidate is looked at.
const (
	sampleLines = 3000
	// Most label values that are tried: there may be thousands of containers.
	maxCandidates = 40
)

// habits are how fail2ban's streams are named: by labels whose value names
// fail2ban, and by those of streams that hold it among all else.
var (
	namesFail2ban = regexp.MustCompile(`(?i)fail2ban`)
	mixedJobs     = regexp.MustCompile(`(?i)^(var-?_?logs?|syslog|.*journal.*|systemd.*|integrations/node_exporter)$`)
	mixedFiles    = regexp.MustCompile(`(^|/)(syslog|messages|user\.log|daemon\.log)$`)
	// In the order in which they are preferred: a name is better than a path,
	// and a path than a machine's unit.
	habitLabels = []string{"job", "app", "unit", "systemd_unit", "__journal__systemd_unit", "syslog_identifier", "filename", "container", "container_name", "compose_service", "service_name"}
)

// candidate is a query that may find fail2ban's logs.
type candidate struct {
	query   string
	rank    int // of its label among the habits
	lines   int
	events  int
	streams map[string]map[string]string // labels by key: those with events
	zones   map[time.Duration]int        // lines by inferred offset
}

// discover looks for fail2ban's streams in each Loki of the configuration and
// prints the `sources` that read them.
func (k *checkCommand) discover(ctx context.Context, cfg *config.Config, log *slog.Logger, std stdio) error {
	var found []pasted
	asked := map[string]bool{}
	for i := range cfg.Sources {
		s := &cfg.Sources[i]
		key := s.URL.String() + " " + s.TenantID
		if asked[key] {
			continue
		}
		asked[key] = true
		s.Backoff = impatient(s.Backoff)
		client, err := newLokiClient(s, log, nil, nil)
		if err != nil {
			return err
		}
		all, err := candidates(ctx, client, s)
		if err == nil {
			err = sampleAll(ctx, client, s, all)
		}
		client.Close()
		if err != nil {
			return fmt.Errorf("source %s: %w", s.Name, err)
		}
		best := choose(all)
		for _, c := range all {
			fmt.Fprintln(std.err, c.verdict(slices.Contains(best, c)))
		}
		for _, c := range best {
			found = append(found, c.source(s, len(found)))
		}
	}
	if len(found) == 0 {
		return errors.New("no stream holds lines of fail2ban's: does its log reach this Loki, within the source's lookback?")
	}
	text, err := yaml.Marshal(map[string]any{"sources": found})
	if err != nil {
		return err
	}
	_, err = std.out.Write(text)
	return err
}

// candidates are the queries that the labels of a Loki suggest.
func candidates(ctx context.Context, client *loki.Client, s *config.Source) (out []*candidate, err error) {
	now := time.Now()
	from := now.Add(-time.Duration(s.Lookback))
	names, err := client.Labels(ctx, from, now)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		values, err := client.LabelValues(ctx, name, from, now)
		if err != nil {
			return nil, err
		}
		for _, v := range values {
			filter := ""
			switch {
			case name == "job" && v == publish.Job || name == "service_name" && v == publish.Job:
				continue // our own findings
			case namesFail2ban.MatchString(v):
			case name == "job" && mixedJobs.MatchString(v), name == "filename" && mixedFiles.MatchString(v):
				filter = " |= `fail2ban`"
			default:
				continue
			}
			rank := slices.Index(habitLabels, name)
			if rank < 0 {
				rank = len(habitLabels)
			}
			if filter != "" {
				rank += len(habitLabels) + 1 // better one that holds nothing else
			}
			out = append(out, &candidate{query: "{" + name + "=" + strconv.Quote(v) + "}" + filter, rank: rank})
		}
	}
	slices.SortStableFunc(out, func(a, b *candidate) int {
		return cmp.Or(cmp.Compare(a.rank, b.rank), strings.Compare(a.query, b.query))
	})
	return out[:min(len(out), maxCandidates)], nil
}

func sampleAll(ctx context.Context, client *loki.Client, s *config.Source, all []*candidate) error {
	for _, c := range all {
		if err := c.sample(ctx, client, s); err != nil {
			return fmt.Errorf("%s: %w", c.query, err)
		}
	}
	return nil
}

// sample reads the newest lines of a candidate and counts what of them is
// understood.
func (c *candidate) sample(ctx context.Context, client *loki.Client, s *config.Source) error {
	c.streams, c.zones = map[string]map[string]string{}, map[time.Duration]int{}
	now := time.Now()
	newest, ok, err := client.Newest(ctx, c.query, now.Add(-time.Duration(s.Lookback)), now)
	if err != nil || !ok {
		return err
	}
	source := newLokiSource(s, client)
	parsers := map[string]*fail2ban.Parser{}
	for _, back := range []time.Duration{time.Hour, 24 * time.Hour, 7 * 24 * time.Hour} {
		c.lines, c.events = 0, 0
		clear(c.streams)
		clear(parsers)
		for e, err := range client.Range(ctx, c.query, newest.Time.Add(-back), newest.Time.Add(1)) {
			if err != nil {
				return err
			}
			p := parsers[e.Stream.Key]
			if p == nil {
				p = fail2ban.NewParser(fail2ban.Options{MessageFields: s.Fields})
				parsers[e.Stream.Key] = p
			}
			var ev fail2ban.Event
			l := source.line(e)
			if p.Parse([]byte(l.Text), l.At, &ev) == nil && ev.Kind != fail2ban.Other {
				c.events++
				c.streams[e.Stream.Key] = e.Stream.Labels
			}
			if c.lines++; c.lines == sampleLines {
				break
			}
		}
		if c.events > 0 {
			break
		}
	}
	for key := range c.streams {
		if offset, ok := parsers[key].Offset(); ok {
			c.zones[offset]++
		}
	}
	return nil
}

// choose takes the candidates that together reach all streams with events: the
// most usual label first, none whose streams are known already.
func choose(all []*candidate) (best []*candidate) {
	reached := map[string]bool{}
	for _, c := range all {
		fresh := false
		for key := range c.streams {
			fresh = fresh || !reached[key]
		}
		if !fresh {
			continue
		}
		for key := range c.streams {
			reached[key] = true
		}
		best = append(best, c)
	}
	return best
}

func (c *candidate) verdict(chosen bool) string {
	text := fmt.Sprintf("%-60s %d of %d lines are events of fail2ban's, in %d streams", c.query, c.events, c.lines, len(c.streams))
	switch {
	case c.events == 0:
		return text
	case !chosen:
		return text + ": the same as above"
	}
	return text + ": taken"
}

// pasted is an entry of `sources` as it is printed.
type pasted struct {
	Name       string   `yaml:"name,omitempty"`
	URL        string   `yaml:"url"`
	TenantID   string   `yaml:"tenant_id,omitempty"`
	Query      string   `yaml:"query"`
	HostLabels []string `yaml:"host_labels,omitempty,flow"`
	Timezone   string   `yaml:"timezone"`
}

// source is the entry that reads a candidate.
func (c *candidate) source(s *config.Source, n int) pasted {
	out := pasted{URL: s.URL.Redacted(), TenantID: s.TenantID, Query: c.query, HostLabels: c.hostLabels(config.DefaultSource.HostLabels), Timezone: c.timezone()}
	if n > 0 {
		out.Name = "loki-" + strconv.Itoa(n+1)
	}
	return out
}

// hostLabels are the usual ones that every stream has; else those that tell the
// streams apart, but what names the file or the program.
func (c *candidate) hostLabels(usual []string) (out []string) {
	for _, name := range usual {
		n := 0
		for _, labels := range c.streams {
			if labels[name] != "" {
				n++
			}
		}
		if n == len(c.streams) {
			return []string{name}
		}
		if n > 0 {
			out = append(out, name)
		}
	}
	if len(out) > 0 {
		return out
	}
	values := map[string]map[string]bool{}
	for _, labels := range c.streams {
		for name, v := range labels {
			if values[name] == nil {
				values[name] = map[string]bool{}
			}
			values[name][v] = true
		}
	}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		if len(values[name]) > 1 && !slices.Contains([]string{"filename", "stream", "level", "detected_level", "service_name"}, name) {
			out = append(out, name)
		}
	}
	return out
}

// timezone is UTC where all streams' stamps say so; where they are others, the
// zone's own rules are not known from its distance, so it stays inferred.
func (c *candidate) timezone() string {
	if len(c.zones) == 1 && c.zones[0] == len(c.streams) {
		return "UTC"
	}
	return config.AutoFormat
}
