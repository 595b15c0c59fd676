package main

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/prometheus/exporter-toolkit/web"
	"golang.org/x/net/netutil"
	"gopkg.in/yaml.v3"
)

// What one request may cost beside --web.read-timeout. An answer is made before
// it is sent, so a slow reader holds memory until the write time-out.
const (
	headerTimeout  = 10 * time.Second // of its header, and of a TLS handshake
	writeTimeout   = time.Minute
	maxHeaderBytes = 64 << 10
)

// newServer makes the web server.
func newServer(h http.Handler, w *webFlags) *http.Server {
	return &http.Server{
		Handler: h, ReadHeaderTimeout: min(headerTimeout, w.readTimeout), ReadTimeout: w.readTimeout, WriteTimeout: writeTimeout,
		IdleTimeout: w.readTimeout, MaxHeaderBytes: maxHeaderBytes,
	}
}

// serve serves until the server is shut down, with the TLS and authentication
// of the web configuration. Probes need no password: who sends them often has
// no place to keep one. All that they are told is yes or no.
func (v *supervisor) serve(l net.Listener, s *http.Server) error {
	w := &v.r.web
	prefix, err := w.prefix()
	if err != nil {
		return err
	}
	// exporter-toolkit puts its check in front of the handler just before it
	// accepts the first connection: the probes go in front of that.
	first := &firstAccept{Listener: netutil.LimitListener(l, w.maxConnections), before: func() {
		s.Handler = &probesFirst{ready: func() error { return v.current.Load().ready() }, prefix: prefix, configFile: w.configFile, next: s.Handler}
	}}
	err = web.Serve(first, s, &web.FlagConfig{
		WebListenAddresses: &[]string{l.Addr().String()}, WebSystemdSocket: new(bool), WebConfigFile: &w.configFile,
	}, v.log)
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("web server: %w", err)
}

// firstAccept calls a function before the first connection is accepted.
type firstAccept struct {
	net.Listener
	once   sync.Once
	before func()
}

func (l *firstAccept) Accept() (net.Conn, error) {
	l.once.Do(l.before)
	return l.Listener.Accept()
}

// probesFirst answers probes without a password where one is asked for.
type probesFirst struct {
	ready      func() error
	prefix     string
	configFile string
	next       http.Handler
}

func (p *probesFirst) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	healthy, ready := r.URL.Path == p.prefix+"/-/healthy", r.URL.Path == p.prefix+"/-/ready"
	if !healthy && !ready || r.Method != http.MethodGet && r.Method != http.MethodHead || r.Header.Get("Authorization") != "" || !p.asksForPassword() {
		p.next.ServeHTTP(rw, r)
		return
	}
	if ready && p.ready() != nil {
		http.Error(rw, "not ready", http.StatusServiceUnavailable) // why is for those who may know
		return
	}
	fmt.Fprintln(rw, "OK")
}

// asksForPassword reads the web configuration anew, as the check itself does
// with every request.
func (p *probesFirst) asksForPassword() bool {
	c, err := readWebConfig(p.configFile)
	return err == nil && len(c.Users) > 0
}

// webConfig is what we need to know of a web configuration file.
type webConfig struct {
	TLS   map[string]any    `yaml:"tls_server_config"`
	Users map[string]string `yaml:"basic_auth_users"`
}

func readWebConfig(file string) (c webConfig, err error) {
	if file == "" {
		return c, nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return c, err
	}
	if err := yaml.Unmarshal(text, &c); err != nil {
		return c, fmt.Errorf("%s: %w", file, err)
	}
	return c, nil
}
