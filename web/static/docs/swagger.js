// Starts Swagger UI on this service's own description; nothing is validated elsewhere.
withDescription((spec) => SwaggerUIBundle({
  spec, dom_id: "#docs", deepLinking: true, validatorUrl: null, persistAuthorization: false,
  requestInterceptor: (request) => {
    if (!request.headers.Authorization && !request.headers["X-API-Key"]) request.headers = authorized(request.headers);
    return request;
  },
}));
