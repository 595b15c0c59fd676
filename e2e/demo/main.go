// Command demo shows the exporter at work: a real Loki and a real Prometheus,
// the logs of a recorded fleet of fail2ban servers, moved in time so that they
// end now, and the exporter between them.
//
//	go run ./demo                    until Ctrl-C; the fleet is attacked again every ten minutes
//	go run ./demo -once              checks that all of it works, and ends (so does ONCE=1)
//	go run ./demo -build-only        builds the servers, no more
//	go run ./demo -push-only -loki http://loki:3100 [-waves]
//	                                 only pushes the logs into a Loki that runs already
//
// It keeps what it needs in a temporary folder and leaves nothing behind.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"fail2ban-loki-exporter/e2e/internal/lab"
)

const (
	startPatience = 2 * time.Minute
	wavePause     = 6 * time.Minute  // after the recorded fleet's end; its longest ban has run out by then
	waveInterval  = 10 * time.Minute // from one wave's beginning to the next
)

// exampleLoki is the URL in config.example.yaml that the demo replaces.
const exampleLoki = "http://localhost:3100"

// All streams of the demo look like this to Loki.
var labels = lab.Spread(1)

type options struct {
	once, buildOnly, pushOnly, waves bool
	loki, tenant                     string
}

func main() {
	var o options
	flag.BoolVar(&o.once, "once", os.Getenv("ONCE") == "1", "check that everything works, and end")
	flag.BoolVar(&o.buildOnly, "build-only", false, "build the servers, and end")
	flag.BoolVar(&o.pushOnly, "push-only", false, "push the recorded logs to -loki, and end")
	flag.BoolVar(&o.waves, "waves", false, "with -push-only: no past, but new attacks every ten minutes until stopped")
	flag.StringVar(&o.loki, "loki", exampleLoki, "with -push-only: base URL of Loki")
	flag.StringVar(&o.tenant, "tenant", "", "with -push-only: tenant to push as")
	flag.Parse()
	if flag.NArg() > 0 {
		fmt.Fprintln(os.Stderr, "demo: no arguments, only flags (-help shows them)")
		os.Exit(2)
	}
	if err := run(o, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func run(o options, out io.Writer) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go endWithParent(ctx, cancel)

	var err error
	switch {
	case o.pushOnly && o.waves:
		err = pushWaves(ctx, o.loki, o.tenant, time.Now().Add(wavePause))
	case o.pushOnly:
		err = pushOnly(ctx, o, out)
	case o.buildOnly:
		_, err = build(ctx, out)
	default:
		err = demo(ctx, o.once, out)
	}
	if ctx.Err() != nil { // stopped, as it should
		return nil
	}
	return err
}

// endWithParent cancels when the parent is gone: `go run` ends on a signal
// without passing it on.
func endWithParent(ctx context.Context, cancel func()) {
	parent := os.Getppid()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if os.Getppid() != parent {
				cancel()
				return
			}
		}
	}
}

// fleet is four kinds of trouble on six hosts. The hosts of multihost share
// their attackers.
func fleet() ([]*lab.Recording, error) {
	var fleet []*lab.Recording
	for _, part := range []struct{ recording, host string }{
		{"multihost", ""},
		{"soak", "mail-1"},
		{"crash-kill9", "db-1"},
		{"clean-restart", "git-1"},
	} {
		r, err := lab.Load(part.recording)
		if err != nil {
			return nil, err
		}
		if part.host != "" {
			r = r.Rename(part.host)
		}
		fleet = append(fleet, r)
	}
	return fleet, nil
}

// pushPast pushes what the fleet has logged, as if it had been attacked two
// hours ago and just now. The first attack's findings are settled: whether an
// attacker failed again after a restore shows in the ten minutes after it.
func pushPast(ctx context.Context, lokiURL, tenant string, out io.Writer) error {
	lines, hosts := 0, 0
	for _, ago := range []time.Duration{2 * time.Hour, 2 * time.Second} {
		fleet, err := fleet()
		if err != nil {
			return err
		}
		hosts = 0
		for _, r := range fleet {
			past := r.EndAt(time.Now().Add(-ago)).Lines()
			if err := lab.Push(ctx, lokiURL, tenant, labels, past); err != nil {
				return err
			}
			lines, hosts = lines+len(past), hosts+len(r.Hosts)
		}
	}
	fmt.Fprintf(out, "pushed %d lines of %d hosts into Loki\n", lines, hosts)
	return nil
}

// pushWaves plays the recordings again and again in real time, the first time
// from begin on.
func pushWaves(ctx context.Context, lokiURL, tenant string, begin time.Time) error {
	for ; ; begin = begin.Add(waveInterval) {
		fleet, err := fleet()
		if err != nil {
			return err
		}
		var lines []lab.Line
		for _, r := range fleet {
			length := r.End().Sub(r.Lines()[0].Time)
			lines = append(lines, r.EndAt(begin.Add(length)).Lines()...)
		}
		if err := lab.Play(ctx, lokiURL, tenant, labels, lines); err != nil {
			return err
		}
	}
}

func pushOnly(ctx context.Context, o options, out io.Writer) error {
	ready, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	lokiURL := strings.TrimRight(o.loki, "/")
	err := lab.Poll(ready, func() error {
		_, err := lab.Get(ready, lokiURL+"/ready")
		return err
	})
	if err != nil {
		return err
	}
	return pushPast(ctx, lokiURL, o.tenant, out)
}

func build(ctx context.Context, out io.Writer) (exporter string, err error) {
	fmt.Fprintln(out, "building the exporter, Loki and Prometheus (the first time takes minutes, later ones seconds)")
	if exporter, err = lab.Exporter(ctx, out); err != nil {
		return "", err
	}
	for _, name := range []string{"loki", "prometheus"} {
		if _, err := lab.Build(ctx, name, out); err != nil {
			return "", err
		}
	}
	return exporter, nil
}

// demo is the whole.
func demo(ctx context.Context, once bool, out io.Writer) error {
	exporterBin, err := build(ctx, out)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "fail2ban-loki-exporter-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	sub := func(name string) string { return filepath.Join(dir, name) }
	for _, name := range []string{"loki", "exporter", "prometheus"} {
		if err := os.Mkdir(sub(name), 0o700); err != nil {
			return err
		}
	}
	starting, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()

	loki, err := lab.StartLoki(starting, lab.LokiOptions{Dir: sub("loki"), Progress: out})
	if err != nil {
		return err
	}
	defer loki.Stop()
	if err := pushPast(starting, loki.URL, "", out); err != nil {
		return err
	}
	config, err := configure(loki.URL, sub("exporter"))
	if err != nil {
		return err
	}
	exporter, err := lab.Serve(starting, func(addr string) lab.Command {
		return lab.Command{
			Name:  "exporter",
			Path:  exporterBin,
			Args:  []string{"run", "--config.file", config, "--web.listen-address", addr},
			Dir:   sub("exporter"),
			URL:   "http://" + addr,
			Ready: "/-/ready",
		}
	})
	if err != nil {
		return err
	}
	defer exporter.Stop()
	prometheus, err := lab.StartPrometheus(starting, lab.PrometheusOptions{
		Targets:        map[string]string{"fail2ban": strings.TrimPrefix(exporter.URL, "http://")},
		ScrapeInterval: "2s",
		Dir:            sub("prometheus"),
		Progress:       out,
	})
	if err != nil {
		return err
	}
	defer prometheus.Stop()

	if err := check(starting, loki, exporter, prometheus); err != nil {
		return err
	}
	fmt.Fprintln(out)
	if err := summary(ctx, exporterBin, config, sub("exporter"), out); err != nil {
		return err
	}
	tellAddresses(out, loki, exporter, prometheus, config)
	if once {
		fmt.Fprintln(out, "true bans are in the exporter and in Prometheus, findings in Loki: all works")
		return nil
	}
	fmt.Fprintf(out, "The fleet is attacked again at %s, and every ten minutes after that. Ctrl-C ends it all.\n",
		time.Now().Add(wavePause).Format(time.TimeOnly))
	waves := make(chan error, 1)
	go func() { waves <- pushWaves(ctx, loki.URL, "", time.Now().Add(wavePause)) }()
	select {
	case <-ctx.Done():
		fmt.Fprintln(out, "\nstopping")
		return nil
	case err := <-waves:
		return err
	case <-loki.Exited():
		return ended("Loki", loki)
	case <-exporter.Exited():
		return ended("the exporter", exporter)
	case <-prometheus.Exited():
		return ended("Prometheus", prometheus)
	}
}

func ended(name string, s *lab.Server) error {
	return fmt.Errorf("%s ended by itself; its log:\n%s", name, s.Log())
}

// configure writes the repository's example configuration into dir, with
// Loki's URL replaced.
func configure(lokiURL, dir string) (string, error) {
	root, err := lab.Root()
	if err != nil {
		return "", err
	}
	example, err := os.ReadFile(filepath.Join(root, "config.example.yaml"))
	if err != nil {
		return "", err
	}
	text := string(example)
	if !strings.Contains(text, exampleLoki) {
		return "", errors.New("config.example.yaml does not name " + exampleLoki)
	}
	text = strings.ReplaceAll(text, exampleLoki, lokiURL)
	path := filepath.Join(dir, "config.yaml")
	return path, os.WriteFile(path, []byte(text), 0o600)
}

// check waits until the true bans have arrived in the exporter's metrics and
// in Prometheus, and findings in Loki.
func check(ctx context.Context, loki, exporter, prometheus *lab.Server) error {
	const bans = "fail2ban_bans_total"
	return exporter.Poll(ctx, "does not show all", func() error {
		samples, err := lab.Scrape(ctx, exporter.URL+"/metrics")
		if err != nil {
			return err
		}
		if lab.Sum(samples, bans) == 0 {
			return errors.New("no true bans in the exporter's metrics")
		}
		scraped, err := lab.QueryPrometheus(ctx, prometheus.URL, bans)
		if err != nil {
			return err
		}
		if lab.Sum(scraped, bans) == 0 {
			return errors.New("no true bans in Prometheus")
		}
		now := time.Now()
		findings, err := lab.QueryLoki(ctx, loki.URL, "", findingsQuery, now.Add(-findingsRange), now)
		if err != nil {
			return err
		}
		if len(findings) == 0 {
			return errors.New("no findings in Loki")
		}
		return nil
	})
}

// findingsRange is how far back the demo's findings lie.
const findingsRange = 3 * time.Hour

const findingsQuery = `{job="fail2ban-loki-exporter"} | finding="restore"`

// summary prints what the report says of the fleet, read through Loki.
func summary(ctx context.Context, bin, config, dir string, out io.Writer) error {
	cmd := exec.CommandContext(ctx, bin, "report", "summary", "--config.file", config)
	cmd.Dir = dir
	cmd.Stdout, cmd.Stderr = out, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("report summary: %w", err)
	}
	return nil
}

func tellAddresses(out io.Writer, loki, exporter, prometheus *lab.Server, config string) {
	const expr = "sum by (host) (fail2ban_bans_total) or sum by (cause) (fail2ban_restored_bans_total)"
	graph := prometheus.URL + "/query?" + url.Values{"g0.expr": {expr}, "g0.tab": {"table"}}.Encode()
	findings := loki.URL + "/loki/api/v1/query_range?" + url.Values{"query": {findingsQuery}, "since": {"3h"}}.Encode()
	fmt.Fprintf(out, `
The exporter     %s
  its metrics    %s/metrics
  its settings   %s
Prometheus       %s
  with a query   %s
Loki             %s
  its findings   %s

`, exporter.URL, exporter.URL, config, prometheus.URL, graph, loki.URL, findings)
}
