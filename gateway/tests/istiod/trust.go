package main

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"time"
)

// ensureCA fills dir with the four files of a plugged Istio CA unless they are there already: a root
// and an intermediate that signs. It returns the path of the root certificate.
func ensureCA(dir string) (string, error) {
	root := filepath.Join(dir, "root-cert.pem")
	if _, err := os.Stat(filepath.Join(dir, "ca-key.pem")); err == nil {
		return root, nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	rootKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return "", err
	}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return "", err
	}
	template := func(serial int64, name string) *x509.Certificate {
		return &x509.Certificate{
			SerialNumber: big.NewInt(serial), Subject: pkix.Name{Organization: []string{"Eastgate test"}, CommonName: name},
			NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(10 * 365 * 24 * time.Hour),
			KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, IsCA: true, BasicConstraintsValid: true,
		}
	}
	rootCert := template(1, "root CA")
	rootDER, err := x509.CreateCertificate(rand.Reader, rootCert, rootCert, &rootKey.PublicKey, rootKey)
	if err != nil {
		return "", err
	}
	certDER, err := x509.CreateCertificate(rand.Reader, template(2, "intermediate CA"), rootCert, &key.PublicKey, rootKey)
	if err != nil {
		return "", err
	}
	rootPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: rootDER})
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certDER})
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})
	for name, content := range map[string][]byte{
		"root-cert.pem": rootPEM, "ca-cert.pem": certPEM, "cert-chain.pem": append(certPEM, rootPEM...), "ca-key.pem": keyPEM,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			return "", err
		}
	}
	return root, nil
}

// issuer is the OIDC issuer that istiod's JWT_RULE trusts: it signs tokens like those Kubernetes
// projects into pods, and serves the key to check them.
type issuer struct {
	url string
	key *rsa.PrivateKey
}

func newIssuer(url string) (*issuer, error) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	return &issuer{url, key}, err
}

func (i *issuer) rule() string {
	return fmt.Sprintf(`{"issuer":%q,"jwks_uri":%q,"audiences":["istio-ca"]}`, i.url, i.url+"/jwks")
}

func (i *issuer) register(mux *http.ServeMux) {
	mux.HandleFunc("GET /jwks", func(w http.ResponseWriter, _ *http.Request) {
		encode := base64.RawURLEncoding.EncodeToString
		answer(w, map[string]any{"keys": []any{map[string]string{
			"kty": "RSA", "alg": "RS256", "use": "sig", "kid": "test",
			"n": encode(i.key.N.Bytes()), "e": encode(big.NewInt(int64(i.key.E)).Bytes()),
		}}})
	})
	mux.HandleFunc("GET /token", func(w http.ResponseWriter, r *http.Request) {
		otherwise := func(key, value string) string {
			if got := r.FormValue(key); got != "" {
				return got
			}
			return value
		}
		ttl, err := time.ParseDuration(otherwise("ttl", "1h"))
		if err == nil {
			var token string
			token, err = i.sign(otherwise("namespace", "istio-system"), otherwise("account", "istio-eastwestgateway"), otherwise("audience", "istio-ca"), ttl)
			if err == nil {
				_, _ = w.Write([]byte(token))
				return
			}
		}
		http.Error(w, err.Error(), http.StatusBadRequest)
	})
}

func (i *issuer) sign(namespace, account, audience string, ttl time.Duration) (string, error) {
	part := func(value any) string {
		text, _ := json.Marshal(value)
		return base64.RawURLEncoding.EncodeToString(text)
	}
	now := time.Now()
	signed := part(map[string]string{"alg": "RS256", "typ": "JWT", "kid": "test"}) + "." + part(map[string]any{
		"iss": i.url, "aud": []string{audience}, "iat": now.Unix(), "exp": now.Add(ttl).Unix(),
		"sub": "system:serviceaccount:" + namespace + ":" + account,
	})
	digest := sha256.Sum256([]byte(signed))
	signature, err := rsa.SignPKCS1v15(rand.Reader, i.key, crypto.SHA256, digest[:])
	return signed + "." + base64.RawURLEncoding.EncodeToString(signature), err
}
