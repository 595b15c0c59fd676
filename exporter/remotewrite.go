package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"fail2ban-loki-exporter/exporter/internal/config"
	"fail2ban-loki-exporter/exporter/internal/publish"

	promconfig "github.com/prometheus/common/config"
)

// remoteWritePath is where Prometheus receives, and most others too.
const remoteWritePath = "/api/v1/write"

// receiverURL is the whole URL of a receiver.
func receiverURL(r *config.RemoteWrite) *url.URL {
	u := *r.URL.URL
	if strings.Trim(u.Path, "/") == "" {
		u.Path = remoteWritePath
	}
	return &u
}

// remoteLabels are the labels of all series for a receiver. A scrape would add
// a job and an instance: so do we.
func remoteLabels(r *config.RemoteWrite) map[string]string {
	labels := map[string]string{"job": publish.Job}
	if machine, err := os.Hostname(); err == nil {
		labels["instance"] = machine
	}
	maps.Copy(labels, r.ExternalLabels)
	return labels
}

// remoteOptions are the options of a writer without what it gathers from.
func remoteOptions(r *config.RemoteWrite, log *slog.Logger) (publish.RemoteOptions, error) {
	client, err := promconfig.NewClientFromConfig(r.Client(), "remote_write", promconfig.WithUserAgent(userAgent()))
	if err != nil {
		return publish.RemoteOptions{}, err
	}
	client.Timeout = time.Duration(r.RemoteTimeout)
	return publish.RemoteOptions{
		Name: "remote-write", URL: receiverURL(r), HTTP: client, V2: r.ProtobufMessage == config.RemoteWriteV2, Labels: remoteLabels(r),
		Interval: time.Duration(r.Interval), Budget: r.Budget(),
		MinBackoff: time.Duration(r.Backoff.MinPeriod), MaxBackoff: time.Duration(r.Backoff.MaxPeriod), MaxRetries: r.Backoff.MaxRetries,
		MaxSamples: r.MaxSamples, Native: r.NativeHistogram, Log: log,
	}, nil
}

// addRemotes makes a writer for each receiver.
func (d *daemon) addRemotes() error {
	for i := range d.cfg.Remotes {
		r := &d.cfg.Remotes[i]
		o, err := remoteOptions(r, d.log)
		if err != nil {
			return fmt.Errorf("remote_write[%d]: %w", i, err)
		}
		o.Name = d.remoteName(i)
		o.Gather = publish.Join(d.registry, d.metrics)
		if o.Native {
			o.Gather = publish.Join(d.registry, d.metrics.Native())
		}
		w, err := publish.NewRemoteWriter(d.self.CountRemote(o))
		if err != nil {
			return fmt.Errorf("remote_write[%d]: %w", i, err)
		}
		d.remotes = append(d.remotes, w)
		d.receivers = append(d.receivers, o.HTTP)
	}
	return nil
}

// remoteName names a receiver in metrics and logs.
func (d *daemon) remoteName(i int) string {
	if len(d.cfg.Remotes) > 1 {
		return fmt.Sprintf("remote-write-%d", i)
	}
	return "remote-write"
}

// remoteEnd bounds how long the end waits for receivers to take the markers.
const remoteEnd = 5 * time.Second

// writeRemotes writes to all receivers until the context ends; with --once, once
// after that. It returns when all writers have ended.
func (d *daemon) writeRemotes(ctx context.Context) {
	var all sync.WaitGroup
	for i, w := range d.remotes {
		if !d.cfg.Remotes[i].Live {
			continue
		}
		all.Go(func() {
			if d.once {
				<-ctx.Done()
				w.Write(context.WithoutCancel(ctx))
				return
			}
			w.Run(ctx)
			if d.handsOver.Load() {
				return
			}
			ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), remoteEnd)
			defer cancel()
			w.End(ending)
		})
	}
	all.Wait()
}

// remoteKey tells which receivers of two configurations are the same.
func remoteKey(r *config.RemoteWrite) string {
	return fmt.Sprint(receiverURL(r), remoteLabels(r), r.Headers)
}

// carriedRemotes are a daemon's writers for the next one.
func (d *daemon) carriedRemotes() map[string]*publish.RemoteWriter {
	out := map[string]*publish.RemoteWriter{}
	for i, w := range d.remotes {
		out[remoteKey(&d.cfg.Remotes[i])] = w
	}
	return out
}

// takeRemotes goes on where another daemon's writers have ended, and has those
// end that are no longer wanted.
func (d *daemon) takeRemotes(from map[string]*publish.RemoteWriter) {
	for i, w := range d.remotes {
		key := remoteKey(&d.cfg.Remotes[i])
		if old := from[key]; old != nil {
			w.TakeOver(old)
			delete(from, key)
		}
	}
	for _, old := range from {
		d.looking.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), remoteEnd)
			defer cancel()
			old.End(ctx)
		})
	}
}

// remoteParts tells how each receiver is.
func (d *daemon) remoteParts() (out []part) {
	for i, w := range d.remotes {
		name := "metrics to " + config.ShownURL(promconfig.URL{URL: receiverURL(&d.cfg.Remotes[i])})
		state := w.State()
		if !d.cfg.Remotes[i].Live {
			out = append(out, d.pastPart(name, i))
			continue
		}
		detail := fmt.Sprintf("%d samples in the last round", state.Samples)
		if !state.At.IsZero() {
			detail += ", last written " + state.At.UTC().Format(landingTime) + " UTC"
		}
		detail += d.historyDetail(i)
		switch {
		case state.Err != nil:
			out = append(out, ill(name, state.Err, detail))
		case state.At.IsZero():
			out = append(out, healthy(name, "not written yet", detail))
		default:
			out = append(out, healthy(name, "written", detail))
		}
	}
	return out
}

// pastPart tells of a receiver that gets the past alone.
func (d *daemon) pastPart(name string, i int) part {
	if h := d.histories.all[i]; h != nil && h.State().Err != nil {
		return ill(name, h.State().Err, "the past alone")
	}
	return healthy(name, "the past alone", strings.TrimPrefix(d.historyDetail(i), "; "))
}

// checkRemotes asks each receiver whether it takes what we write, and whether
// it scrapes the same metrics.
func checkRemotes(ctx context.Context, cfg *config.Config, log *slog.Logger, out io.Writer) error {
	var errs []error
	for i := range cfg.Remotes {
		r := &cfg.Remotes[i]
		r.Backoff = impatient(r.Backoff)
		at := fmt.Sprintf("remote_write[%d]", i)
		o, err := remoteOptions(r, log)
		if err != nil {
			return fmt.Errorf("%s: %w", at, err)
		}
		w, err := publish.NewRemoteWriter(o)
		if err != nil {
			return fmt.Errorf("%s: %w", at, err)
		}
		if err := w.Probe(ctx); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", at, err))
			continue
		}
		fmt.Fprintf(out, "%s: %s takes what is written\n", at, config.ShownURL(promconfig.URL{URL: o.URL}))
		if !r.Live {
			continue
		}
		for _, target := range queried(ctx, o, scraped) {
			fmt.Fprintf(out, "warning: %s: the receiver scrapes an exporter too, as %s: if that is this one, its metrics show twice; drop the scrape or this entry (docs/remote-write.md)\n", at, target)
		}
	}
	return errors.Join(errs...)
}

// scraped finds the exporters that a Prometheus scrapes: `up` is written by a
// scrape alone.
const scraped = `count by (job, instance) (up and on (job, instance) fail2ban_exporter_build_info)`

// queried names the targets that a query finds at a receiver that answers
// queries where Prometheus does; none where nothing is known.
func queried(ctx context.Context, o publish.RemoteOptions, query string) (targets []string) {
	base, ok := strings.CutSuffix(o.URL.Path, remoteWritePath)
	if !ok {
		return nil
	}
	u := *o.URL
	u.Path, u.RawQuery = base+"/api/v1/query", url.Values{"query": {query}}.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil
	}
	resp, err := o.HTTP.Do(req)
	if err != nil {
		return nil
	}
	defer resp.Body.Close()
	var answer struct {
		Data struct {
			Result []struct {
				Metric struct{ Job, Instance string }
			}
		}
	}
	if json.NewDecoder(io.LimitReader(resp.Body, maxQueryAnswer)).Decode(&answer) != nil {
		return nil
	}
	for _, r := range answer.Data.Result {
		targets = append(targets, publish.Visible(fmt.Sprintf("{job=%q, instance=%q}", cmp.Or(r.Metric.Job, "?"), cmp.Or(r.Metric.Instance, "?"))))
	}
	slices.Sort(targets)
	return targets
}

// maxQueryAnswer bounds how much of an answer to a query is read.
const maxQueryAnswer = 1 << 20
