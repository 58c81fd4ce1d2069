//! Corrects what the description says about null, in one place for all routes.
//!
//! - No parameter and no body of a request can be null. utoipa takes null for what may be left out.
//! - A field of an answer that can be null is always there, since serde writes `None` as null. utoipa takes such a field for
//!   one that may be left out.

use std::collections::HashSet;

use utoipa::openapi::schema::{Schema, SchemaType, Type};
use utoipa::openapi::{OpenApi, RefOr};

use super::operations;

pub(super) fn say_where_null_can_be(document: &mut OpenApi) {
    let mut asked = HashSet::new();
    for operation in operations(document) {
        let parameters = operation.parameters.iter_mut().flatten().filter_map(|parameter| parameter.schema.as_mut());
        let bodies = operation.request_body.iter_mut().flat_map(|body| body.content.values_mut());
        for schema in parameters.chain(bodies.filter_map(|content| content.schema.as_mut())) {
            remove_null(schema);
            if let RefOr::Ref(reference) = schema {
                asked.insert(reference.ref_location.rsplit('/').next().unwrap_or_default().to_owned());
            }
        }
    }
    let components = document.components.get_or_insert_default();
    for (name, schema) in &mut components.schemas {
        if !asked.contains(name) {
            require_nullable(schema);
        }
    }
}

fn remove_null(schema: &mut RefOr<Schema>) {
    match schema {
        RefOr::T(Schema::Object(object)) => {
            if let SchemaType::Array(types) = &mut object.schema_type {
                types.retain(|one| *one != Type::Null);
                if let [only] = &types[..] {
                    object.schema_type = SchemaType::Type(only.clone());
                }
            }
        }
        RefOr::T(Schema::OneOf(choice)) => {
            choice.items.retain(|one| !can_be_null(one));
            if choice.items.len() == 1 {
                *schema = choice.items.remove(0);
            }
        }
        _ => {}
    }
}

fn require_nullable(schema: &mut RefOr<Schema>) {
    match schema {
        RefOr::T(Schema::Object(object)) => {
            for (name, property) in &object.properties {
                if can_be_null(property) && !object.required.contains(name) {
                    object.required.push(name.clone());
                }
            }
        }
        RefOr::T(Schema::AllOf(parts)) => parts.items.iter_mut().for_each(require_nullable),
        _ => {}
    }
}

fn can_be_null(schema: &RefOr<Schema>) -> bool {
    match schema {
        RefOr::T(Schema::Object(object)) => match &object.schema_type {
            SchemaType::Type(one) => *one == Type::Null,
            SchemaType::Array(types) => types.contains(&Type::Null),
            SchemaType::AnyValue => false,
        },
        RefOr::T(Schema::OneOf(choice)) => choice.items.iter().any(can_be_null),
        _ => false,
    }
}
