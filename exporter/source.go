package main

import (
	"context"
	"fmt"
	"iter"
	"strconv"
	"time"
	_ "time/tzdata"

	"fail2ban-loki-exporter/exporter/internal/config"
	"fail2ban-loki-exporter/exporter/internal/loki"
	"fail2ban-loki-exporter/exporter/internal/pipeline"
	"fail2ban-loki-exporter/exporter/internal/publish"
	// A zone may be configured where the system has none.
)

// lokiSource reads a configured source: the one place that knows which label
// names the host.
type lokiSource struct {
	client     *loki.Client
	name       string
	query      string
	hostLabels []string

	lines map[*loki.Stream]pipeline.Line // what is the same for all lines of a stream
}

func newLokiSource(c *config.Source, client *loki.Client) *lokiSource {
	return &lokiSource{client: client, name: c.Name, query: c.Query, hostLabels: c.HostLabels}
}

// Lines implements pipeline.Source.
func (s *lokiSource) Lines(ctx context.Context, from, to time.Time) iter.Seq2[pipeline.Line, error] {
	s.lines = map[*loki.Stream]pipeline.Line{}
	return func(yield func(pipeline.Line, error) bool) {
		for e, err := range s.client.Range(ctx, s.query, from, to) {
			if err != nil {
				yield(pipeline.Line{}, err)
				return
			}
			if !yield(s.line(e), nil) {
				return
			}
		}
	}
}

func (s *lokiSource) line(e loki.Entry) pipeline.Line {
	l, ok := s.lines[e.Stream]
	if !ok {
		l = s.describe(e.Stream)
		s.lines[e.Stream] = l
	}
	l.At, l.Text = e.Time, e.Line
	if v := e.Metadata["THREAD_NAME"]; v != "" {
		l.Thread = v
	}
	if v := e.Metadata["_PID"]; v != "" {
		l.PID, _ = strconv.Atoi(v)
	}
	return l
}

// describe reads a stream's labels.
func (s *lokiSource) describe(st *loki.Stream) pipeline.Line {
	l := pipeline.Line{Stream: st.Key, Own: st.Labels["job"] == publish.Job, Thread: st.Labels["THREAD_NAME"]}
	l.PID, _ = strconv.Atoi(st.Labels["_PID"])
	for _, label := range s.hostLabels {
		if v := st.Labels[label]; v != "" {
			l.Host = v
			return l
		}
	}
	l.Host, l.Unnamed = s.name, true
	return l
}

// zoneOf gives the configured zone of each host; nil infers it.
func zoneOf(c *config.Source) (func(host string) *time.Location, error) {
	zones := map[string]*time.Location{}
	load := func(name string) (*time.Location, error) {
		if name == "auto" || name == "" {
			return nil, nil
		}
		return time.LoadLocation(name)
	}
	all, err := load(c.Timezone)
	if err != nil {
		return nil, fmt.Errorf("timezone of source %s: %w", c.Name, err)
	}
	for host, name := range c.Timezones {
		if zones[host], err = load(name); err != nil {
			return nil, fmt.Errorf("timezone of host %s of source %s: %w", host, c.Name, err)
		}
	}
	return func(host string) *time.Location {
		if z, ok := zones[host]; ok {
			return z
		}
		return all
	}, nil
}
