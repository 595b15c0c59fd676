package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/alecthomas/kingpin/v2"
	"github.com/prometheus/common/model"
)

// checkCommand validates the configuration and probes what it names.
type checkCommand struct {
	common  *common
	offline bool
	search  bool
	health  bool
	url     string
	webFile string
}

func addCheck(app *kingpin.Application, c *common, commands map[string]command) {
	k := &checkCommand{common: c}
	cmd := app.Command("check", "Validate the configuration, show it with secrets masked, and ask each Loki.")
	cmd.Flag("offline", "Do not touch the network.").BoolVar(&k.offline)
	cmd.Flag("discover", "Look for fail2ban's streams in each Loki and print the `sources` that read them, to paste.").BoolVar(&k.search)
	cmd.Flag("health", "Ask a running exporter whether it is healthy; its URL may follow.").BoolVar(&k.health)
	cmd.Flag("web.config.file", "With --health: the web configuration of the running exporter, which tells whether it speaks TLS.").StringVar(&k.webFile)
	cmd.Arg("url", "With --health: the exporter's URL.").Default("http://localhost" + defaultListenAddress).StringVar(&k.url)
	commands[cmd.FullCommand()] = k.run
}

func (k *checkCommand) run(ctx context.Context, log *slog.Logger, std stdio) error {
	if k.health {
		return askHealth(ctx, k.url, k.webFile, std.out)
	}
	cfg, err := loadConfig(k.common)
	if err != nil {
		return err
	}
	if _, err := newRedactors(&cfg.Privacy); err != nil {
		return err
	}
	if k.search && !k.offline {
		return k.discover(ctx, cfg, log, std)
	}
	fmt.Fprint(std.out, cfg.String())
	checkOrigins(cfg, log, std.err)
	if k.offline {
		fmt.Fprintln(std.err, "configuration is valid; nothing was asked (--offline)")
		return nil
	}
	var errs []error
	for i := range cfg.Sources {
		s := &cfg.Sources[i]
		s.Backoff = impatient(s.Backoff)
		client, err := newLokiClient(s, log, nil, nil)
		if err != nil {
			return err
		}
		now := time.Now()
		newest, ok, err := client.Newest(ctx, s.Query, now.Add(-time.Duration(s.Lookback)), now)
		client.Close()
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("source %s: %w", s.Name, err))
		case !ok:
			errs = append(errs, fmt.Errorf("source %s: no stream matches %s within %s; see which labels your fail2ban logs have and set sources[%d].query to them",
				s.Name, s.Query, s.Lookback, i))
		default:
			line := newLokiSource(s, client).line(newest)
			fmt.Fprintf(std.err, "source %s: %s answers; newest line %s ago, of host %q\n", s.Name, client.Address(), model.Duration(now.Sub(newest.Time).Round(time.Second)), line.Host)
			if line.Unnamed && !namesHost(cfg, s) {
				errs = append(errs, fmt.Errorf("source %s: no label of a stream names its host; its labels are %s: set sources[%d].host_labels", s.Name, newest.Stream.Key, i))
			}
		}
	}
	return errors.Join(append(errs, checkRemotes(ctx, cfg, log, std.err))...)
}

// healthTimeout bounds the question; container engines ask again soon.
const healthTimeout = 5 * time.Second

// askHealth is the image's HEALTHCHECK. An exporter that asks for a password
// lives: the file has only the password's hash, so the answer is 401.
func askHealth(ctx context.Context, url, webFile string, out io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, healthTimeout)
	defer cancel()
	secure, err := speaksTLS(webFile)
	if err != nil {
		return err
	}
	if secure {
		url = strings.Replace(url, "http://", "https://", 1)
	}
	if !strings.HasSuffix(url, "/-/healthy") {
		url = strings.TrimSuffix(url, "/") + "/-/healthy"
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return usageError{err}
	}
	resp, err := healthClient().Do(req)
	if err != nil {
		return fmt.Errorf("not healthy: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusUnauthorized {
		return fmt.Errorf("not healthy: %s answers %s", url, resp.Status)
	}
	fmt.Fprintln(out, "healthy")
	return nil
}

// healthClient takes any certificate: the question goes to the same machine,
// under a name that no certificate bears, and carries no secret.
func healthClient() *http.Client {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.DisableKeepAlives = true
	t.TLSClientConfig = &tls.Config{InsecureSkipVerify: true} //nolint:gosec // see above
	return &http.Client{Transport: t}
}

// speaksTLS tells whether a web configuration file asks for TLS.
func speaksTLS(file string) (bool, error) {
	c, err := readWebConfig(file)
	return len(c.TLS) > 0, err
}
