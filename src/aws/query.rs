//! The query protocol (EC2, SNS, Auto Scaling): a form as body, lists as `Name.N`.

/// A form that grows.
#[derive(Debug, Clone)]
pub(crate) struct Form(String);

impl Form {
    /// A form for this action of this API version.
    pub(crate) fn new(action: &str, version: &str) -> Form {
        Form(format!("Action={action}&Version={version}"))
    }

    /// Adds a parameter.
    pub(crate) fn add(&mut self, name: &str, value: &str) -> &mut Form {
        self.0.push('&');
        encode_into(&mut self.0, name);
        self.0.push('=');
        encode_into(&mut self.0, value);
        self
    }

    /// Adds a list: `name.1`, `name.2`, …
    pub(crate) fn add_all(&mut self, name: &str, values: &[&str]) -> &mut Form {
        for (n, value) in (1..).zip(values) {
            self.add(&format!("{name}.{n}"), value);
        }
        self
    }

    /// The body.
    pub(crate) fn into_body(self) -> String {
        self.0
    }
}

/// Percent-encodes all but the unreserved characters of RFC 3986; a space is `%20`.
pub(crate) fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    encode_into(&mut out, text);
    out
}

fn encode_into(out: &mut String, text: &str) {
    for b in text.bytes() {
        if b.is_ascii_alphanumeric() || b"-_.~".contains(&b) {
            out.push(char::from(b));
        } else {
            out.push('%');
            for digit in [b >> 4, b & 15] {
                out.push(char::from(b"0123456789ABCDEF"[usize::from(digit)]));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_unreserved_characters_stay() {
        assert_eq!(encode("aZ9-_.~ /+*ü&="), "aZ9-_.~%20%2F%2B%2A%C3%BC%26%3D");
        let mut form = Form::new("A", "1");
        form.add_all("N", &["x", "y&z"]);
        assert_eq!(form.into_body(), "Action=A&Version=1&N.1=x&N.2=y%26z");
    }
}
