package projection

import (
	"reflect"
	"time"

	"github.com/tidemark-dev/tidemark/platform/event"
)

// masked stands for what is not shown.
const masked = "(personal data)"

// withoutPersonal returns a fact's content for people who look at why it parked:
// personal data, which lives in structs named Contact and Address and nowhere
// else, is left out.
func withoutPersonal(body event.Body) any { return withoutPersonalIn(reflect.ValueOf(body)) }

func withoutPersonalIn(v reflect.Value) any {
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		if v.IsNil() {
			return nil
		}
		return withoutPersonalIn(v.Elem())
	case reflect.Struct:
		if at, ok := v.Interface().(time.Time); ok {
			return at.UTC()
		}
		if name := v.Type().Name(); name == "Contact" || name == "Address" {
			return masked
		}
		fields := map[string]any{}
		for i := range v.NumField() {
			if field := v.Type().Field(i); field.IsExported() {
				fields[field.Name] = withoutPersonalIn(v.Field(i))
			}
		}
		return fields
	case reflect.Slice, reflect.Array:
		list := make([]any, v.Len())
		for i := range list {
			list[i] = withoutPersonalIn(v.Index(i))
		}
		return list
	}
	return v.Interface()
}
