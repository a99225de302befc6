package embedded

import (
	"encoding/json"
	"errors"
	"net/http"
	"strings"

	"github.com/twmb/franz-go/pkg/sr"
)

const maxBody = 1 << 20 // largest request the registry reads

// Error codes of Confluent's REST protocol.
const (
	codeIncompatible  = 409
	codeInvalidSchema = 42201
	codeStore         = 50001
)

// ServeHTTP answers what changes or judges schemas itself and leaves reading
// to the fake registry.
func (r *Registry) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	path := strings.Split(strings.Trim(req.URL.Path, "/"), "/")
	switch {
	case req.Method == http.MethodPost && len(path) == 3 && path[0] == "subjects" && path[2] == "versions":
		r.serveRegister(w, req, path[1])
	case req.Method == http.MethodPost && len(path) >= 4 && path[0] == "compatibility" && path[1] == "subjects" && path[3] == "versions":
		r.serveCompatibility(w, req, path[2])
	case req.Method == http.MethodGet && req.URL.Path == "/schemas/types":
		answer(w, http.StatusOK, []string{"AVRO"})
	case req.Method == http.MethodGet && req.URL.Path == "/":
		answer(w, http.StatusOK, map[string]string{})
	case req.Method == http.MethodPut || req.Method == http.MethodDelete:
		refuse(w, http.StatusMethodNotAllowed, http.StatusMethodNotAllowed,
			"the embedded registry only adds schemas; compatibility is FULL_TRANSITIVE for every subject")
	default:
		r.read.Handler().ServeHTTP(w, req)
	}
}

func (r *Registry) serveRegister(w http.ResponseWriter, req *http.Request, subject string) {
	schema, ok := readSchema(w, req)
	if !ok {
		return
	}
	id, err := r.Register(subject, schema)
	var incompatible *IncompatibleError
	switch {
	case err == nil:
		answer(w, http.StatusOK, map[string]int{"id": id})
	case errors.As(err, &incompatible):
		refuse(w, http.StatusConflict, codeIncompatible, "Schema being registered is incompatible with an earlier schema: "+err.Error())
	case errors.Is(err, errInvalid):
		refuse(w, http.StatusUnprocessableEntity, codeInvalidSchema, err.Error())
	default:
		refuse(w, http.StatusInternalServerError, codeStore, err.Error())
	}
}

// serveCompatibility compares with every version whatever version the caller
// names, because that is what registering would do.
func (r *Registry) serveCompatibility(w http.ResponseWriter, req *http.Request, subject string) {
	schema, ok := readSchema(w, req)
	if !ok {
		return
	}
	parsed, _, err := parse(schema)
	if err != nil {
		refuse(w, http.StatusUnprocessableEntity, codeInvalidSchema, err.Error())
		return
	}
	r.mu.Lock()
	err = compatible(r.subjects[subject], parsed)
	r.mu.Unlock()
	verdict := map[string]any{"is_compatible": err == nil}
	if err != nil {
		verdict["messages"] = []string{err.Error()}
	}
	answer(w, http.StatusOK, verdict)
}

func readSchema(w http.ResponseWriter, req *http.Request) (string, bool) {
	var body sr.Schema
	if err := json.NewDecoder(http.MaxBytesReader(w, req.Body, maxBody)).Decode(&body); err != nil {
		refuse(w, http.StatusUnprocessableEntity, codeInvalidSchema, "unreadable request: "+err.Error())
		return "", false
	}
	if body.Type != sr.TypeAvro || len(body.References) > 0 {
		refuse(w, http.StatusUnprocessableEntity, codeInvalidSchema, "the embedded registry takes Avro schemas without references")
		return "", false
	}
	return body.Schema, true
}

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/vnd.schemaregistry.v1+json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // the caller went away: nothing to tell it
}

func refuse(w http.ResponseWriter, status, code int, message string) {
	answer(w, status, map[string]any{"error_code": code, "message": message})
}
