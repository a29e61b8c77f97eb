// Starts Swagger UI on this service's own description; nothing is validated elsewhere.
SwaggerUIBundle({ url: "/openapi.json", dom_id: "#docs", deepLinking: true, validatorUrl: null, persistAuthorization: false });
