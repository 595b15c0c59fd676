package main

import (
	"context"
	"fmt"
	"iter"
	"maps"
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
	jailLabel  string

	lines   map[*loki.Stream]pipeline.Line // what is the same for all lines of a stream
	streams map[string]*loki.Stream        // by key: those seen
}

func newLokiSource(c *config.Source, client *loki.Client) *lokiSource {
	return &lokiSource{client: client, name: c.Name, query: c.Query, hostLabels: c.HostLabels, jailLabel: c.JailLabel, lines: map[*loki.Stream]pipeline.Line{}, streams: map[string]*loki.Stream{}}
}

// Lines implements pipeline.Source.
func (s *lokiSource) Lines(ctx context.Context, from, to time.Time) iter.Seq2[pipeline.Line, error] {
	s.lines = map[*loki.Stream]pipeline.Line{}
	return s.all(s.client.Range(ctx, s.query, from, to))
}

func (s *lokiSource) all(entries iter.Seq2[loki.Entry, error]) iter.Seq2[pipeline.Line, error] {
	return func(yield func(pipeline.Line, error) bool) {
		for e, err := range entries {
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

// notOwn are the labels of what we wrote ourselves.
var notOwn = map[string]string{"job": publish.Job}

// Count implements pipeline.Recounter.
func (s *lokiSource) Count(ctx context.Context, from, to time.Time) (uint64, error) {
	return s.client.Count(ctx, s.query, notOwn, from, to)
}

// CountByStream implements pipeline.Recounter.
func (s *lokiSource) CountByStream(ctx context.Context, keys []string, from, to time.Time) ([]pipeline.StreamCount, error) {
	var known []*loki.Stream
	for _, key := range keys {
		if st := s.stream(key); st != nil {
			known = append(known, st)
		}
	}
	counts, err := s.client.CountByStream(ctx, s.query, notOwn, known, from, to)
	if err != nil {
		return nil, err
	}
	out := make([]pipeline.StreamCount, len(counts))
	for i, c := range counts {
		s.streams[c.Stream.Key] = c.Stream
		out[i] = pipeline.StreamCount{Stream: c.Stream.Key, Host: s.describe(c.Stream).Host, N: c.N}
	}
	return out, nil
}

// stream is that of a key, nil for none.
func (s *lokiSource) stream(key string) *loki.Stream {
	if st := s.streams[key]; st != nil {
		return st
	}
	st, err := loki.StreamOf(key)
	if err != nil {
		return nil
	}
	s.streams[key] = st
	return st
}

// StreamLines implements pipeline.Recounter.
func (s *lokiSource) StreamLines(ctx context.Context, key string, from, to time.Time) iter.Seq2[pipeline.Line, error] {
	st := s.stream(key)
	if st == nil {
		return func(yield func(pipeline.Line, error) bool) {
			yield(pipeline.Line{}, fmt.Errorf("%q is no stream", key))
		}
	}
	s.lines = map[*loki.Stream]pipeline.Line{}
	return s.all(s.client.RangeOf(ctx, s.query, st, from, to))
}

// HostLines implements pipeline.Recounter: it asks for the labels that all
// streams of the host share.
func (s *lokiSource) HostLines(ctx context.Context, host string, from, to time.Time) iter.Seq2[pipeline.Line, error] {
	return func(yield func(pipeline.Line, error) bool) {
		streams, err := s.client.Series(ctx, s.query, from, to)
		if err != nil {
			yield(pipeline.Line{}, err)
			return
		}
		s.lines = map[*loki.Stream]pipeline.Line{}
		for l, err := range s.all(s.client.RangeWith(ctx, s.query, s.common(streams, host), from, to)) {
			if err == nil && l.Host != host {
				continue
			}
			if !yield(l, err) {
				return
			}
		}
	}
}

// common gives the labels that a host's streams share.
func (s *lokiSource) common(streams []*loki.Stream, host string) (labels map[string]string) {
	for _, st := range streams {
		if s.describe(st).Host != host {
			continue
		}
		if labels == nil {
			labels = maps.Clone(st.Labels)
			delete(labels, loki.TenantLabel) // Loki's, and in no selector
		}
		maps.DeleteFunc(labels, func(name, value string) bool { return st.Labels[name] != value })
	}
	return labels
}

func (s *lokiSource) line(e loki.Entry) pipeline.Line {
	l, ok := s.lines[e.Stream]
	if !ok {
		l = s.describe(e.Stream)
		s.lines[e.Stream] = l
	}
	l.At, l.Text = e.Time, e.Line
	if len(e.Metadata) == 0 {
		return l
	}
	if v := firstOf(e.Metadata, threadNames); v != "" {
		l.Thread = v
	}
	if v := firstOf(e.Metadata, pidNames); v != "" {
		l.PID, _ = strconv.Atoi(v)
	}
	if v := e.Metadata[s.jailLabel]; v != "" {
		l.Jail = v
	}
	return l
}

// What shippers call the fields that journald keeps of a line's writer, in the
// structured metadata or the labels, the best first: journald's own names (as
// journalctl and Vector have them), those of Promtail's and Alloy's pipeline
// stages, and those of their journal targets ("__journal_" and the field in
// lower case), which a relabelling keeps in many spellings. journald's PRIORITY
// is not read under any name: no rule needs a line's level.
var (
	threadNames = []string{"THREAD_NAME", "thread_name", "__journal_thread_name", "journal_thread_name", "_journal_thread_name"}
	pidNames    = []string{"_PID", "pid", "__journal__pid", "journal__pid", "journal_pid", "_pid"}
)

// firstOf gives the first value there is.
func firstOf(labels map[string]string, names []string) string {
	for _, name := range names {
		if v := labels[name]; v != "" {
			return v
		}
	}
	return ""
}

// describe reads a stream's labels.
func (s *lokiSource) describe(st *loki.Stream) pipeline.Line {
	l := pipeline.Line{
		Stream: st.Key, Own: st.Labels["job"] == publish.Job, Thread: firstOf(st.Labels, threadNames), Jail: st.Labels[s.jailLabel],
		Host: firstOf(st.Labels, s.hostLabels),
	}
	l.PID, _ = strconv.Atoi(firstOf(st.Labels, pidNames))
	if l.Host == "" {
		l.Host, l.Unnamed = s.name, true
	}
	if tenant := st.Labels[loki.TenantLabel]; tenant != "" { // rule 26: two tenants' hosts of one name are two
		l.Host = tenant + "/" + l.Host
	}
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
